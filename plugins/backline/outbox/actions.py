"""What a person does to one message: take it back, revive it, send it again. Each act stands in the audit trail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import DictRow

from backline.audit_trail import Actor, record
from backline.db.connect import translate_errors
from backline.db.statements import statement
from backline.encryption import Encryptor
from backline.errors import InvalidInput, PermanentError
from backline.messages import registry
from backline.messages.recipients import check
from backline.outbox.submission import to_stored_payload, with_http_field_name

FINAL_STATES = frozenset({"sent", "suppressed", "cancelled", "expired", "dead"})


class MessageNotFound(PermanentError):
    """There is no message of that id: it never was, or it was pruned."""


class InvalidStateTransition(PermanentError):
    """The message's state does not allow the act."""


@dataclass(frozen=True, slots=True)
class Edits:
    """How a message that is sent again differs from the first one; None leaves it as it was."""

    recipient: str | None = None
    payload: Mapping[str, Any] | None = None


def cancel(connection: psycopg.Connection[DictRow], message_id: int, who: Actor) -> None:
    """Take a message back in the caller's transaction: at once if nobody holds it, else its holder is asked.

    Doing it twice is no error. NoSuchMessage; WrongState if it has ended otherwise.
    """
    before = _lock_message(connection, message_id)["state"]
    if before == "cancelled":
        return
    rows = connection.execute(statement("outbox", "message_cancel"), {"id": message_id}).fetchall()
    if not rows:
        raise InvalidStateTransition(f"message {message_id} is {before} already, so it cannot be taken back")
    _record_audit(connection, who, "message.cancel", message_id, before, rows[0]["state"])


def replace_payload(
    connection: psycopg.Connection[DictRow], message_id: int, payload: Mapping[str, Any], who: Actor
) -> bool:
    """Give a message that waits for its time another payload and send it now, in the caller's transaction.

    False, and nothing done, if it waits no more. InvalidInput if the model refuses the payload, NoSuchMessage, and
    WrongState for a type with secrets: take such a one back and send another.
    """
    row = _lock_message(connection, message_id)
    if row["secret_fields"]:
        raise InvalidStateTransition(f"message {message_id} has secrets; cancel it and send another")
    registry.get(row["type"]).parse(payload)
    values = {"id": message_id, "payload": json.dumps(payload)}
    if not connection.execute(statement("outbox", "message_replace_payload"), values).fetchall():
        return False
    _record_audit(connection, who, "message.amend", message_id, row["state"], "pending")
    return True


def retry(connection: psycopg.Connection[DictRow], message_id: int, who: Actor) -> None:
    """Revive a dead message under its own id in the caller's transaction.

    NoSuchMessage; WrongState if it is not dead, its time is over or its secrets are erased.
    """
    row = _lock_message(connection, message_id)
    if row["state"] != "dead":
        raise InvalidStateTransition(f"message {message_id} is {row['state']}; only a dead one can be tried again")
    if row["secret_fields"]:
        raise InvalidStateTransition(
            f"the secrets of message {message_id} ({', '.join(row['secret_fields'])}) were erased when it ended; "
            "send it again with a whole payload"
        )
    if not connection.execute(statement("outbox", "message_retry"), {"id": message_id}).fetchall():
        raise InvalidStateTransition(
            f"message {message_id} was not to be sent after {row['expires_at']:%Y-%m-%d %H:%M:%S %Z}"
        )
    _record_audit(connection, who, "message.retry", message_id, "dead", "pending")


def replay(
    connection: psycopg.Connection[DictRow],
    message_id: int,
    edits: Edits,
    key: str | None,
    who: Actor,
    encryptor: Encryptor,
) -> tuple[int, bool]:
    """Send a message that has ended again, as a new one of the same channel, in the caller's transaction.

    Returns the new message's id, or its group's and true for a type of several channels. InvalidInput if the model refuses the
    payload, for example because its secrets were erased and are not given anew; NoSuchMessage; WrongState if it has
    not ended.
    """
    row = _lock_message(connection, message_id)
    if row["state"] not in FINAL_STATES:
        raise InvalidStateTransition(f"message {message_id} is {row['state']} and may still be sent; cancel it first")
    kind = registry.get(row["type"])
    payload = row["payload"] if edits.payload is None else edits.payload
    if gone := [name for name in sorted(kind.secret_fields) if name not in payload]:
        raise InvalidInput(f"payload.{gone[0]}", "was erased when the message ended; give the whole payload anew")
    text = to_stored_payload(kind, payload, encryptor)
    recipient = check(row["channel"], row["recipient"] if edits.recipient is None else edits.recipient)
    params = {
        "type": row["type"], "payload": text, "lane": row["lane"] if len(kind.channels) == 1 else None,
        "recipient": recipient if len(kind.channels) == 1 else json.dumps({row["channel"]: recipient}),
        "priority": row["priority"], "idempotency_key": key, "request_id": who.request_id, "replay_of": message_id,
    }  # fmt: skip
    try:
        with translate_errors():
            [new] = connection.execute(statement("messages", "message_replay"), params).fetchall()
    except InvalidInput as exc:
        raise with_http_field_name(exc) from None
    edited = [name for name, value in (("to", edits.recipient), ("payload", edits.payload)) if value is not None]
    record(
        connection, who, "message.replay", f"message/{message_id}",
        before={"state": row["state"]}, after={"new": new["id"], "edited": edited},
    )  # fmt: skip
    return int(new["id"]), len(kind.channels) > 1


def _lock_message(connection: psycopg.Connection[DictRow], message_id: int) -> DictRow:
    row = connection.execute(statement("messages", "message_lock"), {"id": message_id}).fetchone()
    if row is None:
        raise MessageNotFound(f"there is no message {message_id}: it never was, or it was pruned")
    return row


def _record_audit(
    connection: psycopg.Connection[DictRow], who: Actor, act: str, message_id: int, before: str, after: str
) -> None:
    record(connection, who, act, f"message/{message_id}", before={"state": before}, after={"state": after})
