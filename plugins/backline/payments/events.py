"""What providers tell of payments, kept before it is answered: each event once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg
from psycopg.rows import DictRow
from pydantic_core import to_json

from backline.db.statements import statement
from backline.delivery_events.events import require_object
from backline.errors import InvalidInput
from backline.payments.declines import Decline

MAX_ID_LENGTH = 200


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """One event, as its provider has signed it."""

    provider: str
    event_id: str
    """The provider's own, the same when it is told again."""
    type: str
    occurred_at: datetime
    body: dict[str, Any]


EventKind = Literal["captured", "failed", "requires_action", "cancelled", "charged_subscription_find"]


@dataclass(frozen=True, slots=True)
class ParsedEvent:
    """What an event says that we act on, whoever said it."""

    kind: EventKind
    reference: str
    """The provider's id of the payment."""
    idempotency_key: str | None
    """Ours, if the payment was made by us."""
    amount_minor: int
    currency: str
    decline: Decline | None = None
    subscription_reference: str | None = None
    """The provider's id of the subscription that was charged."""


def insert_event(connection: psycopg.Connection[DictRow], event: PaymentEvent) -> bool:
    """Keep an event in the caller's transaction; whether it is new."""
    values = {
        "provider": event.provider, "event_id": event.event_id, "type": event.type, "occurred_at": event.occurred_at,
        "body": to_json(event.body).decode(),
    }  # fmt: skip
    return bool(connection.execute(statement("payments", "event_insert"), values).fetchall())


def require_text(value: object, field: str) -> str:
    """A text of a body; InvalidInput if it is missing, too long, or holds what a database cannot keep."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH or "\0" in value:
        raise InvalidInput(field, f"must be a text of 1 to {MAX_ID_LENGTH} characters")
    return value


def parse_body(text: str, time_field: str) -> tuple[dict[str, Any], datetime]:
    """A signed body and when it happened, by its field `created` in seconds since 1970; InvalidInput if it has none.

    A NUL character in it is refused as well: PostgreSQL's jsonb cannot keep it.
    """
    if "\\u0000" in text:
        raise InvalidInput("body", "must not hold \\u0000")
    try:
        told = require_object(json.loads(text), "body")
    except ValueError:
        raise InvalidInput("body", "must be JSON") from None
    try:
        return told, datetime.fromtimestamp(int(told[time_field]), UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        raise InvalidInput(time_field, "must be seconds since 1970") from None


def require_minor_units(value: object, field: str) -> int:
    """An amount in minor units; InvalidInput if it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(field, "must be a whole number of minor units")
    return value
