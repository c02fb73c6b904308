"""One event as all providers tell it, and keeping it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import psycopg
from psycopg.rows import DictRow
from pydantic_core import to_json

from backline.db.statements import statement
from backline.errors import InvalidInput, PermanentError
from backline.preferences.addresses import address_key

EventType = Literal["delivered", "deferred", "rejected", "bounced", "complained", "unsubscribed"]
MAX_SIGNATURE_AGE = timedelta(hours=25)
"""Providers repeat for a day what they could not deliver; what was signed before that is a replay."""
MAX_CLOCK_SKEW = timedelta(minutes=15)
"""How far a provider's clock may be ahead of ours."""
_MESSAGE_ID_PATTERN = re.compile(r"backline\.(\d{1,18})\.(\d{1,18})@")


class InvalidSignature(PermanentError):
    """The request does not bear the provider's signature, or bears an old one."""


@dataclass(frozen=True, slots=True)
class DeliveryEvent:
    """One thing that a provider tells of one message to one recipient."""

    source_id: str
    """The provider's own id of the event, the same when it is told again."""
    channel: str
    event: EventType
    at: datetime
    recipient: str
    detail: str | None = None
    hard: bool = False
    """Of a bounce: for good."""
    suppress: Literal["hard_bounce", "complaint", "unsubscribed"] | None = None
    """Why the recipient is not to be written to any more, if so."""
    message_id: str | None = None
    """The Message-ID header of the email, as we made it."""
    provider_id: str | None = None


def record_events(connection: psycopg.Connection[DictRow], source: str, events: Sequence[DeliveryEvent]) -> int:
    """Keep those that are new and act on them, in the caller's transaction; returns how many were new."""
    if not events:
        return 0
    once = {event.source_id: _row(event) for event in events}
    given = {"source": source, "events": to_json(list(once.values())).decode()}
    return len(connection.execute(statement("delivery_events", "delivery_event_insert_many"), given).fetchall())


def check_signature_age(signed: datetime, now: datetime) -> None:
    """NotSigned for a time of signing that is too long ago, or ahead."""
    if not -MAX_CLOCK_SKEW <= now - signed <= MAX_SIGNATURE_AGE:
        raise InvalidSignature("signed too long ago, or by a clock that is ahead")


def require_object(value: object, field: str) -> dict[str, Any]:
    """A JSON object; InvalidInput for anything else."""
    if not isinstance(value, dict):
        raise InvalidInput(field, "must be an object")
    return value


def join_text(*parts: object) -> str | None:
    """What a provider says, in one line; None if it says nothing."""
    said = " ".join(" ".join(str(part) for part in parts if part not in (None, "")).split())
    return said.replace("\0", "")[:1000] or None


def _row(event: DeliveryEvent) -> dict[str, Any]:
    ours = _MESSAGE_ID_PATTERN.search(event.message_id or "")
    return {
        **asdict(event),
        "recipient": address_key(event.channel, event.recipient),
        "message_id": int(ours[1]) if ours else None,
        "created": int(ours[2]) if ours else None,
    }
