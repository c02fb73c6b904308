"""Delivery events in one form for all providers; recording them, and what the providers' parsers share."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, Literal

import psycopg
from psycopg.rows import DictRow
from pydantic_core import to_json

from backline.channels.registry import definition
from backline.db.connect import ROW_ERRORS, to_storable
from backline.db.statements import statement
from backline.errors import BacklineError, InvalidInput, PermanentError
from backline.messages.fields import FIRST_TIME, LAST_TIME

log = logging.getLogger(__name__)

EventType = Literal["delivered", "deferred", "rejected", "bounced", "complained", "unsubscribed"]
MAX_SIGNATURE_AGE = timedelta(hours=25)
"""Providers retry their requests for a day; one with an older signature is a replay."""
MAX_SIGNATURE_LENGTH = 2000
MAX_ID_LENGTH = 500
"""Characters of an id or a recipient."""
MAX_CLOCK_SKEW = timedelta(minutes=15)
"""How far a provider's clock may be ahead of ours."""
_MESSAGE_ID_PATTERN = re.compile(r"backline\.(\d{1,18})\.(\d{1,18})@")


class InvalidSignature(PermanentError):
    """The request's signature is missing, wrong or too old."""


@dataclass(frozen=True, slots=True)
class DeliveryEvent:
    """One event of one message to one recipient."""

    source_id: str
    """The provider's id of the event, the same when it is sent again."""
    channel: str
    event: EventType
    at: datetime
    recipient: str
    detail: str | None = None
    hard: bool = False
    """Of a bounce: permanent."""
    suppress: Literal["hard_bounce", "complaint", "unsubscribed"] | None = None
    """The reason to suppress the recipient, if any."""
    message_id: str | None = None
    """The email's Message-ID header, which Backline generated."""
    provider_id: str | None = None

    def __post_init__(self) -> None:
        """InvalidInput for what cannot be stored: the fields are what the provider sent."""
        for name, required in (("source_id", True), ("recipient", True), ("message_id", False), ("provider_id", False)):
            value = getattr(self, name)
            if value is None and not required:
                continue
            if not isinstance(value, str) or not value.strip() or len(value) > MAX_ID_LENGTH:
                raise InvalidInput(name, f"must be a text of 1 to {MAX_ID_LENGTH} characters")
        if not FIRST_TIME <= self.at <= LAST_TIME:
            raise InvalidInput("at", "must be between the years 1 and 9999 in every time zone")


def record_events(connection: psycopg.Connection[DictRow], source: str, events: Sequence[DeliveryEvent]) -> int:
    """Store new events and apply suppressions and opt-outs, in the caller's transaction; returns how many were new.

    An event that cannot be stored is logged and left out.
    """
    if not events:
        return 0
    try:
        rows = {event.source_id: _row(event) for event in events}
        values = {"source": source, "events": to_json(list(rows.values())).decode()}
        with connection.transaction():
            return len(
                connection.execute(statement("delivery_events", "delivery_event_insert_many"), values).fetchall()
            )
    except (ValueError, *ROW_ERRORS, BacklineError) as exc:
        if len(events) == 1:  # refused, it would come again for days, with all that came with it
            log.warning("%s event %r left out: %s", source, events[0].source_id[:100], type(exc).__name__)
            return 0
    return sum(record_events(connection, source, [event]) for event in events)


def signature_header(headers: Mapping[str, str], name: str) -> str:
    """A header that proves where a request comes from; InvalidSignature if it is missing, long or not ASCII."""
    value = headers.get(name, "")
    if not value or len(value) > MAX_SIGNATURE_LENGTH or not (value.isascii() and value.isprintable()):
        raise InvalidSignature(
            f"the header {name} is missing, or has more than {MAX_SIGNATURE_LENGTH} ASCII characters"
        )
    return value


def check_signature_age(signed: datetime, now: datetime) -> None:
    """InvalidSignature if the request was signed too long ago, or in the future."""
    if not -MAX_CLOCK_SKEW <= now - signed <= MAX_SIGNATURE_AGE:
        raise InvalidSignature("signed too long ago, or by a clock that is ahead")


def require_object(value: object, field: str) -> dict[str, Any]:
    """A JSON object; InvalidInput for anything else."""
    if not isinstance(value, dict):
        raise InvalidInput(field, "must be an object")
    return value


def parse_json(text: str | bytes, field: str) -> Any:
    """The value of a JSON text; InvalidInput for the field if it is none, or has a number that is not finite."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        raise InvalidInput(field, "must be JSON") from None


def _finite(text: str) -> float:
    if not isfinite(number := float(text)):
        raise ValueError
    return number


def parse_epoch(value: object, field: str) -> datetime:
    """A time from seconds since 1970; InvalidInput for the field if it is none."""
    try:
        return datetime.fromtimestamp(float(value), UTC)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):
        raise InvalidInput(field, "must be seconds since 1970") from None


def join_text(*parts: object) -> str | None:
    """The parts of a provider's text in one line; None if there is no text."""
    text = " ".join(" ".join(str(part) for part in parts if part not in (None, "")).split())
    return to_storable(text)[:1000] or None


def bounce(*, hard: bool, **event: Any) -> DeliveryEvent:
    """A bounce; a hard one suppresses the recipient."""
    return DeliveryEvent(event="bounced", hard=hard, suppress="hard_bounce" if hard else None, **event)


def _row(event: DeliveryEvent) -> dict[str, Any]:
    found = _MESSAGE_ID_PATTERN.search(event.message_id or "")
    texts = {name: to_storable(value) for name, value in asdict(event).items() if isinstance(value, str)}
    return {
        **asdict(event),
        **texts,
        "recipient": definition(event.channel).address_key(texts["recipient"]),
        "message_id": int(found[1]) if found else None,
        "created": int(found[2]) if found else None,
    }
