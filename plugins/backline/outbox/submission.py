"""Taking messages in over HTTP: judged by their types' models, secrets sealed, then enqueued set-based, all or none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import DictRow
from pydantic_core import to_json

from backline.db.connect import translate_errors
from backline.db.statements import statement
from backline.encryption import Encryptor
from backline.errors import BacklineError, InvalidInput
from backline.messages import MessageType, recipients, registry
from backline.settings import settings

IDEMPOTENCY_KEY_HEADER = "Idempotency-Key"
MAX_IDEMPOTENCY_KEY_LENGTH = 200
"""Of an idempotency key in characters: the outbox takes 255, and a batch adds each message's position."""
MAX_RECIPIENT_LENGTH = 400
_ADDR_SPEC = r'[^\s@<>(),;:\\"\[\]]+@[^\s@<>(),;:\\"\[\]]+'
_EMAIL_PATTERN = re.compile(rf"{_ADDR_SPEC}|[^<>\x00-\x1f\x7f]+ <{_ADDR_SPEC}>")
MAX_REPORTED_ERRORS = 50
"""How many wrong messages of one batch are told about."""


@dataclass(frozen=True, slots=True)
class MessageRequest:
    """One message that somebody wants sent, as they gave it."""

    type: str
    to: object
    """An address; for a type of several channels a mapping with one a channel."""
    payload: Mapping[str, Any]
    due_at: datetime | None = None
    expires_at: datetime | None = None
    priority: int | None = None
    lane: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ValidatedMessage:
    """One message that its type's model has accepted, its secrets sealed."""

    type: str
    recipient: str
    payload: str
    """JSON text."""
    grouped: bool
    """Whether it becomes a group, a message a channel."""
    options: tuple[datetime | None, datetime | None, int | None, str | None, str | None]
    """due_at, expires_at, priority, lane, request_id."""


class BatchValidationError(BacklineError):
    """Some messages of a batch are wrong, so none was taken: their positions from 0, and what is wrong with each."""

    def __init__(self, problems: Sequence[tuple[int, InvalidInput]]) -> None:
        super().__init__("; ".join(f"message {index}: {problem}" for index, problem in problems))
        self.problems = problems


def validate_batch(requests: Sequence[MessageRequest], encryptor: Encryptor) -> list[ValidatedMessage]:
    """Judge all by their models and seal what is secret; BadBatch tells which are wrong, up to 50 of them."""
    checked: list[ValidatedMessage] = []
    problems: list[tuple[int, InvalidInput]] = []
    now = datetime.now(UTC)
    for index, one in enumerate(requests):
        try:
            checked.append(_validate(one, encryptor, now))
        except InvalidInput as exc:
            problems.append((index, exc))
            if len(problems) == MAX_REPORTED_ERRORS:
                break
    if problems:
        raise BatchValidationError(problems)
    return checked


def enqueue_batch(
    connection: psycopg.Connection[DictRow], messages: Sequence[ValidatedMessage], keys: Sequence[str] | None
) -> list[int]:
    """Put all into the outbox, in the caller's transaction; their ids (a group's where grouped) in the order given.

    `keys` are idempotency keys, one a message. One call for each type and set of options. BadBatch when the database
    refuses, for example a key that was used with other content: roll back then.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, one in enumerate(messages):
        alike.setdefault((one.type, *one.options), []).append(index)
    ids = [0] * len(messages)
    for (type_name, due_at, expires_at, priority, lane, request_id), indexes in alike.items():
        params = {
            "type": type_name, "due_at": due_at, "expires_at": expires_at, "priority": priority, "lane": lane,
            "request_id": request_id, "recipients": [messages[index].recipient for index in indexes],
            "payloads": [messages[index].payload for index in indexes],
            "idempotency_keys": None if keys is None else [keys[index] for index in indexes],
        }  # fmt: skip
        try:
            with translate_errors():
                [row] = connection.execute(statement("messages", "message_enqueue_many"), params).fetchall()
        except InvalidInput as exc:
            raise BatchValidationError([(_failed_index(exc, keys, indexes), with_http_field_name(exc))]) from None
        for index, message_id in zip(indexes, row["ids"], strict=True):
            ids[index] = message_id
    return ids


def check_idempotency_key(key: str) -> str:
    """An idempotency key; InvalidInput unless it is 1 to 200 visible ASCII characters."""
    if not re.fullmatch(rf"[!-~]{{1,{MAX_IDEMPOTENCY_KEY_LENGTH}}}", key):
        raise InvalidInput(
            IDEMPOTENCY_KEY_HEADER,
            f"must be 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} visible ASCII characters, such as a UUID",
        )
    return key


def with_http_field_name(exc: InvalidInput) -> InvalidInput:
    """What the database refused, with the field's name as HTTP has it."""
    names = {"idempotency_key": IDEMPOTENCY_KEY_HEADER, "recipient": "to"}
    return InvalidInput(names[exc.field], exc.problem) if exc.field in names else exc


def to_stored_payload(kind: type[MessageType], payload: Mapping[str, Any], encryptor: Encryptor) -> str:
    """A payload as the outbox keeps it, as JSON text: judged by the model, its secret fields sealed."""
    try:
        kind.parse(payload)
    except InvalidInput as exc:
        raise InvalidInput(f"payload.{exc.field}" if exc.field != "payload" else exc.field, exc.problem) from None
    sealed = {
        name: encryptor.encrypt(value) for name in kind.secret_fields if isinstance(value := payload.get(name), str)
    }
    # As the model has judged it: that a number is none is told by its text.
    return to_json({**payload, **sealed} if sealed else payload, inf_nan_mode="strings").decode()


def _validate(wanted: MessageRequest, sealer: Encryptor, now: datetime) -> ValidatedMessage:
    kind = registry.get(wanted.type)
    grouped = len(kind.channels) > 1
    addresses = recipients.by_channel(kind.type_name, kind.channels, wanted.to)
    if "email" in addresses:
        _check_email(addresses["email"], "to.email" if grouped and isinstance(wanted.to, Mapping) else "to")
    if wanted.lane is not None:
        _check_lane(kind, wanted.lane)
    if wanted.due_at is not None and wanted.expires_at is not None and wanted.due_at > wanted.expires_at:
        raise InvalidInput("due_at", "is after expires_at, so it could never be sent; give an earlier one")
    expires_at = wanted.expires_at or (now + kind.lifetime if kind.lifetime else None)
    options = (wanted.due_at, expires_at, wanted.priority, wanted.lane, wanted.request_id)
    return ValidatedMessage(
        kind.type_name,
        recipients.serialize(kind.channels, addresses),
        to_stored_payload(kind, wanted.payload, sealer),
        grouped,
        options,
    )


def _check_email(address: str, field: str) -> None:
    """As the database takes it, which would refuse it without saying which message it means."""
    if not is_valid_email_recipient(address):
        raise InvalidInput(
            field, f"write it as ann@example.com or Ann <ann@example.com>, in at most {MAX_RECIPIENT_LENGTH} characters"
        )


def is_valid_email_recipient(recipient: str) -> bool:
    """Whether `backline.recipient_error` finds no fault in an email's recipient; a test holds the two equal."""
    return len(recipient) <= MAX_RECIPIENT_LENGTH and _EMAIL_PATTERN.fullmatch(recipient) is not None


def _check_lane(kind: type[MessageType], name: str) -> None:
    lanes = settings().lanes
    fitting = [lane for lane, config in lanes.items() if len(kind.channels) == 1 and config.channel in kind.channels]
    if name not in fitting:
        known = f"use one of: {', '.join(fitting)}" if fitting else "leave it out"
        raise InvalidInput("lane", f"{name[:80]!r} cannot carry {kind.type_name}; {known}")


def _failed_index(exc: InvalidInput, keys: Sequence[str] | None, indexes: Sequence[int]) -> int:
    """Which message the database means: it names a key, or what all of one call share."""
    if keys is not None:
        for index in indexes:
            if exc.problem.startswith(f"'{keys[index]}' "):
                return index
    return indexes[0]
