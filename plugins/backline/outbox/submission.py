"""Adds messages to the outbox with the SQL function that apps call, and acts on messages in it: cancel, retry, replay.

`enqueue` and `enqueue_many` are for all Python code. `validate_batch` and `enqueue_batch` serve HTTP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
from pydantic_core import to_json

from backline.audit_trail import Actor, record
from backline.channels.recipients import ADDRESS_PATTERN
from backline.channels.registry import ADDRESS_MAX_LENGTH, definition
from backline.db.connect import fetch, fetch_one, translate_errors
from backline.db.statements import statement
from backline.encryption import Encryptor
from backline.errors import BacklineError, InvalidInput, PermanentError
from backline.messages import recipients, registry
from backline.messages.base import MessageType
from backline.settings import settings

IDEMPOTENCY_KEY_HEADER = "Idempotency-Key"
MAX_IDEMPOTENCY_KEY_LENGTH = 255
MAX_REPORTED_ERRORS = 50
"""Invalid messages of one batch that are reported."""
FINAL_STATES = frozenset({"sent", "suppressed", "cancelled", "expired", "dead"})

# --- enqueueing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewMessage:
    """One message to enqueue."""

    type: str
    recipient: str | Mapping[str, str]
    """An address; for a type of several channels an object by channel, or its JSON text."""
    payload: Mapping[str, object] | str
    """A string is JSON text."""
    key: str | None = None
    """Idempotency key: the same key with the same content gives the first message's id."""
    due_at: datetime | None = None
    expires_at: datetime | None = None
    priority: int | None = None
    lane: str | None = None
    request_id: str | None = None
    replay_of: int | None = None
    key_scope: str | None = None
    """The user that the key belongs to; None: to the database role itself."""
    payload_json: str | None = None
    """The payload as it was given, with the very digits of its numbers."""

    @property
    def is_group(self) -> bool:
        """Whether it becomes a group, with one message per channel."""
        return len(registry.get(self.type).channels) > 1


def enqueue(
    database: psycopg.Connection[Any],
    type: str,  # noqa: A002 - the word of the SQL function
    recipient: str | Mapping[str, str],
    payload: Mapping[str, object],
    *,
    key: str | None = None,
    due_at: datetime | None = None,
    request_id: str | None = None,
) -> int:
    """Enqueue one message in the caller's transaction; returns its or its group's id. InvalidInput names a wrong field."""
    return enqueue_many(database, [NewMessage(type, recipient, payload, key, due_at, request_id=request_id)])[0]


def enqueue_many(database: psycopg.Connection[Any], messages: Sequence[NewMessage]) -> list[int]:
    """Enqueue messages in the caller's transaction; returns their ids in the order given.

    Messages of one type with equal options are one SQL call. InvalidInput if any is refused: roll back then.
    """
    ids = [0] * len(messages)
    for indexes in _calls(messages):
        sql, params = enqueue_statement([messages[index] for index in indexes])
        with translate_errors():
            [found] = fetch(database, sql, list[int], params)
        for index, message_id in zip(indexes, found, strict=True):
            ids[index] = message_id
    return ids


def enqueue_statement(messages: Sequence[NewMessage]) -> tuple[LiteralString, dict[str, Any]]:
    """The SQL call, with its parameters, that enqueues messages of one type with equal options; its row is `ids`."""
    first = messages[0]
    return statement("outbox", "message_enqueue_many"), {
        "type": first.type, "due_at": first.due_at, "priority": first.priority, "expires_at": first.expires_at,
        "request_id": first.request_id, "lane": first.lane, "replay_of": first.replay_of, "key_scope": first.key_scope,
        "recipients": [_to_text(one.recipient) for one in messages],
        "payloads": [_to_text(one.payload) for one in messages],
        "idempotency_keys": None if first.key is None else [one.key for one in messages],
    }  # fmt: skip


def _calls(messages: Sequence[NewMessage]) -> Iterable[list[int]]:
    """The positions of the messages of each SQL call."""
    calls: dict[tuple[Any, ...], list[int]] = {}
    for index, one in enumerate(messages):
        options = (one.due_at, one.expires_at, one.priority, one.lane, one.request_id, one.replay_of, one.key_scope)
        calls.setdefault((one.type, one.key is None, *options), []).append(index)
    return calls.values()


def _to_text(value: Mapping[str, object] | str) -> str:
    # Infinity and NaN, which JSON does not have, are refused by the database.
    return value if isinstance(value, str) else to_json(value, inf_nan_mode="constants").decode()


# --- over HTTP ---------------------------------------------------------------------------------------


class BatchValidationError(BacklineError):
    """Some messages of a batch are invalid, so none was accepted: their positions from 0, and each one's error."""

    def __init__(self, problems: Sequence[tuple[int, InvalidInput]]) -> None:
        super().__init__("; ".join(f"message {index}: {problem}" for index, problem in problems))
        self.problems = problems


def validate_batch(messages: Sequence[NewMessage], encryptor: Encryptor) -> list[NewMessage]:
    """Check all by their models and encrypt secret fields; BatchValidationError lists up to 50 invalid messages."""
    valid: list[NewMessage] = []
    problems: list[tuple[int, InvalidInput]] = []
    now = datetime.now(UTC)
    for index, one in enumerate(messages):
        try:
            valid.append(_validate(one, encryptor, now))
        except InvalidInput as exc:
            problems.append((index, exc))
            if len(problems) == MAX_REPORTED_ERRORS:
                break
    if problems:
        raise BatchValidationError(problems)
    return valid


def enqueue_batch(
    database: psycopg.Connection[Any], messages: Sequence[NewMessage], key: str | None, key_scope: str
) -> list[int]:
    """As `enqueue_many`, with one idempotency key, if given, for the whole batch.

    InvalidInput if the key was used with other content; BatchValidationError if the database refuses a message.
    """
    values = {"key": key, "key_scope": key_scope}
    if key is not None:
        content = {
            "types": [one.type for one in messages],
            "recipients": [_to_text(one.recipient) for one in messages],
            "payloads": [_to_text(one.payload) for one in messages],
        }
        try:
            with translate_errors():
                sql = statement("outbox", "idempotency_claim_batch")
                earlier = fetch_one(database, sql, list[int], {**values, **content})
        except InvalidInput as exc:
            raise with_http_field_name(exc, messages[0].type) from None
        if earlier is not None:
            return earlier
    ids = [0] * len(messages)
    for indexes in _calls(messages):
        try:
            found = enqueue_many(database, [messages[index] for index in indexes])
        except InvalidInput as exc:  # it names the position, or what all messages of one call share
            position = re.match(r"backline\.enqueue_many: \w+: message (\d+): ", str(exc.__cause__))
            index = indexes[int(position[1]) - 1 if position else 0]
            raise BatchValidationError([(index, with_http_field_name(exc, messages[index].type))]) from None
        for index, message_id in zip(indexes, found, strict=True):
            ids[index] = message_id
    if key is not None:
        database.execute(statement("outbox", "idempotency_set_ids"), {**values, "ids": ids})
    return ids


def with_http_field_name(exc: InvalidInput, type_name: str) -> InvalidInput:
    """The database's error about a message of this type, with the field's name as in HTTP."""
    names = {"idempotency_key": IDEMPOTENCY_KEY_HEADER, "recipient": "to"}
    if kind := registry.find(type_name):
        names |= {field: f"payload.{field}" for field in kind.model_fields}
    return InvalidInput(names.get(exc.field, exc.field), exc.problem)


def to_stored_payload(
    kind: type[MessageType], payload: Mapping[str, object], encryptor: Encryptor, channels: Iterable[str]
) -> str:
    """A payload as the outbox stores it, as JSON text, its secret fields encrypted.

    InvalidInput if the model refuses it, or if it is known that one of the channels would.
    """
    try:
        parsed = kind.parse(payload)
        for channel in channels:
            if check := definition(channel).check_content:
                check(getattr(parsed, channel)())
    except InvalidInput as exc:
        raise _in_payload(kind, exc) from None
    encrypted = {
        name: encryptor.encrypt(value) for name in kind.secret_fields if isinstance(value := payload.get(name), str)
    }
    return _to_text({**payload, **encrypted} if encrypted else payload)


def is_valid_email_recipient(recipient: str) -> bool:
    """Whether `backline.recipient_error` accepts an email's recipient; a test compares the two."""
    return len(recipient) <= ADDRESS_MAX_LENGTH and re.fullmatch(ADDRESS_PATTERN, recipient) is not None


def _in_payload(kind: type[MessageType], exc: InvalidInput) -> InvalidInput:
    name = re.split(r"[.\[]", exc.field, maxsplit=1)[0]
    return InvalidInput(f"payload.{exc.field}" if name in kind.model_fields else "payload", exc.problem)


def _validate(message: NewMessage, encryptor: Encryptor, now: datetime) -> NewMessage:
    kind = registry.get(message.type)
    addresses = recipients.by_channel(kind.type_name, kind.channels, message.recipient)
    # The database would refuse these without the message's position.
    if "email" in addresses and not is_valid_email_recipient(addresses["email"]):
        raise InvalidInput(
            "to.email" if len(kind.channels) > 1 and isinstance(message.recipient, Mapping) else "to",
            f"write it as ann@example.com or Ann <ann@example.com>, in at most {ADDRESS_MAX_LENGTH} characters",
        )
    if message.lane is not None:
        _check_lane(kind, message.lane)
    if message.due_at is not None and message.expires_at is not None and message.due_at > message.expires_at:
        raise InvalidInput("due_at", "is after expires_at, so it could never be sent; give an earlier one")
    if isinstance(message.payload, str):
        raise InvalidInput("payload", "must be an object")
    stored = to_stored_payload(kind, message.payload, encryptor, addresses)
    return replace(
        message,
        recipient=recipients.serialize(kind.channels, addresses),
        payload=message.payload_json if message.payload_json and not kind.secret_fields else stored,
        payload_json=None,
        expires_at=message.expires_at or (now + kind.lifetime if kind.lifetime else None),
    )


def _check_lane(kind: type[MessageType], name: str) -> None:
    lanes = settings().lanes
    fitting = [lane for lane, config in lanes.items() if len(kind.channels) == 1 and config.channel in kind.channels]
    if name not in fitting:
        known = f"use one of: {', '.join(fitting)}" if fitting else "leave it out"
        raise InvalidInput("lane", f"{name[:80]!r} cannot carry {kind.type_name}; {known}")


# --- actions on one message: each is recorded in the audit trail ------------------------------------------


class MessageNotFound(PermanentError):
    """There is no message of that id: it never existed, or it was pruned."""


class InvalidStateTransition(PermanentError):
    """The message's state does not allow the action."""


def cancel(database: psycopg.Connection[Any], message_id: int, who: Actor) -> None:
    """Cancel a message in the caller's transaction: at once if it is not leased, else its dispatcher is asked to.

    Cancelling twice is no error. MessageNotFound; InvalidStateTransition if it is in another final state.
    """
    before = _lock_message(database, message_id).state
    if before == "cancelled":
        return
    after = fetch_one(database, statement("outbox", "message_cancel"), str, {"id": message_id})
    if after is None:
        raise InvalidStateTransition(f"message {message_id} is {before} already, so it cannot be cancelled")
    _record_audit(database, who, "message.cancel", message_id, before, after)


def replace_payload(
    database: psycopg.Connection[Any], message_id: int, payload: Mapping[str, object], who: Actor
) -> bool:
    """Replace the payload of a scheduled message and make it due now, in the caller's transaction.

    False, with nothing changed, if it is no longer scheduled. InvalidInput if the model refuses the payload;
    MessageNotFound; InvalidStateTransition for a type with secrets: cancel such a message and enqueue another.
    """
    row = _lock_message(database, message_id)
    if row.secret_fields:
        raise InvalidStateTransition(f"message {message_id} has secrets; cancel it and send another")
    kind = registry.get(row.type)
    kind.parse(payload)
    values = {"id": message_id, "payload": json.dumps(payload), "type_version": kind.version}
    if not fetch(database, statement("outbox", "message_replace_payload"), str, values):
        return False
    _record_audit(database, who, "message.replace_payload", message_id, row.state, "pending")
    return True


def retry(database: psycopg.Connection[Any], message_id: int, who: Actor) -> None:
    """Retry a dead message under its own id, in the caller's transaction.

    MessageNotFound; InvalidStateTransition if it is not dead, has expired or its secrets are erased.
    """
    row = _lock_message(database, message_id)
    if row.state != "dead":
        raise InvalidStateTransition(f"message {message_id} is {row.state}; only a dead message can be retried")
    if row.secret_fields:
        raise InvalidStateTransition(
            f"the secrets of message {message_id} ({', '.join(row.secret_fields)}) were erased when it ended; "
            "replay it with a complete payload"
        )
    if not fetch(database, statement("outbox", "message_retry"), str, {"id": message_id}):
        raise InvalidStateTransition(f"message {message_id} expired at {row.expires_at:%Y-%m-%d %H:%M:%S %Z}")
    _record_audit(database, who, "message.retry", message_id, "dead", "pending")


def replay(
    database: psycopg.Connection[Any],
    message_id: int,
    key: str | None,
    who: Actor,
    encryptor: Encryptor,
    *,
    key_scope: str | None = None,
    recipient: str | None = None,
    payload: Mapping[str, object] | None = None,
) -> tuple[int, bool]:
    """Send a message in a final state again, as a new message over the same channel, in the caller's transaction.

    `recipient` and `payload` replace the original's. Returns the new message's id, or its group's id and True for a type of several channels. InvalidInput if the model
    refuses the payload, for example because its erased secrets are missing; MessageNotFound; InvalidStateTransition if
    the message may still be sent.
    """
    row = _lock_message(database, message_id)
    if row.state not in FINAL_STATES:
        raise InvalidStateTransition(f"message {message_id} is {row.state} and may still be sent; cancel it first")
    kind = registry.get(row.type)
    edited = [name for name, value in (("to", recipient), ("payload", payload)) if value is not None]
    replayed = row.payload if payload is None else payload
    if missing := [name for name in sorted(kind.secret_fields) if name not in replayed]:
        raise InvalidInput(f"payload.{missing[0]}", "was erased when the message ended; give the complete payload")
    if payload is None:
        if row.type_version > kind.version:
            raise InvalidStateTransition(
                f"the payload of message {message_id} is of a newer version than this server knows"
            )
        replayed = kind.to_current(replayed, row.type_version)
    address = recipients.check(row.channel, row.recipient if recipient is None else recipient)
    is_group = len(kind.channels) > 1
    message = NewMessage(
        row.type, {row.channel: address} if is_group else address,
        to_stored_payload(kind, replayed, encryptor, [row.channel]), key, priority=row.priority,
        lane=None if is_group else row.lane, request_id=who.request_id, replay_of=message_id,
        key_scope=key_scope,
    )  # fmt: skip
    try:
        [new_id] = enqueue_many(database, [message])
    except InvalidInput as exc:
        raise with_http_field_name(exc, row.type) from None
    record(
        database, who, "message.replay", f"message/{message_id}",
        before={"state": row.state}, after={"new": new_id, "edited": edited},
    )  # fmt: skip
    return new_id, is_group


@dataclass(frozen=True, slots=True)
class _LockedMessage:
    id: int
    type: str
    type_version: int
    channel: str
    lane: str
    priority: int
    state: str
    recipient: str
    expires_at: datetime | None
    payload: dict[str, Any]
    """Without secret fields."""
    secret_fields: list[str]


def _lock_message(database: psycopg.Connection[Any], message_id: int) -> _LockedMessage:
    row = fetch_one(database, statement("messages", "message_lock"), _LockedMessage, {"id": message_id})
    if row is None:
        raise MessageNotFound(f"there is no message {message_id}: it never existed, or it was pruned")
    return row


def _record_audit(
    database: psycopg.Connection[Any], who: Actor, action: str, message_id: int, before: str, after: str
) -> None:
    record(database, who, action, f"message/{message_id}", before={"state": before}, after={"state": after})
