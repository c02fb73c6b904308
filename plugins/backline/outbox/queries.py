"""Queries about messages: one with its timeline, a group, a search. Secret fields are named, never shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import DictRow, class_row

from backline.db.statements import statement
from backline.outbox.timeline import Attempt, AuditEntry, DeliveryEventRow, MessageRow, TimelineEvent, explain, timeline
from backline.settings import settings

REDACTED = "(secret)"
"""Replaces a secret field's value in a payload."""
SEARCH_ID_SPAN = 500_000
"""Ids that one search scans: some tenths of a second, however rare the matches."""


@dataclass(frozen=True, slots=True)
class MessageDetails:
    """One message and what happened to it."""

    message: MessageRow
    payload: Mapping[str, Any]
    explanation: str
    timeline: Sequence[TimelineEvent]


def get_message(connection: psycopg.Connection[DictRow], message_id: int) -> MessageDetails | None:
    """One message with its timeline, or None if there is none of that id."""
    parameters: dict[str, Any] = {"id": message_id, "heartbeat_timeout": settings().outbox.heartbeat_timeout_seconds}
    row = connection.execute(statement("messages", "message_get"), parameters).fetchone()
    if row is None:
        return None
    payload = row.pop("payload") | dict.fromkeys(row.pop("secret_fields_present"), REDACTED)
    message = MessageRow(**row)
    with connection.cursor(row_factory=class_row(Attempt)) as cursor:
        attempts = cursor.execute(statement("outbox", "message_attempts"), {"id": message_id}).fetchall()
    parameters = {"id": message_id, "accepted_id": message.group_id or message_id, "request_id": message.request_id}
    with connection.cursor(row_factory=class_row(AuditEntry)) as cursor:
        entries = cursor.execute(statement("audit_trail", "entry_list_of_message"), parameters).fetchall()
    parameters = {"id": message_id, "provider_id": message.provider_id, "channel": message.channel}
    with connection.cursor(row_factory=class_row(DeliveryEventRow)) as cursor:
        events = cursor.execute(statement("delivery_events", "delivery_event_list"), parameters).fetchall()
    history = (message, attempts, entries, events)
    return MessageDetails(message, payload, explain(*history), timeline(*history))


def get_group(connection: psycopg.Connection[DictRow], group_id: int) -> list[DictRow]:
    """The messages of a group, one per channel; none if there is no such group."""
    return connection.execute(statement("messages", "message_group"), {"id": group_id}).fetchall()


@dataclass(frozen=True, slots=True)
class MessageFilters:
    """Which messages to find; None matches all. `recipient` is any part of the address, in any case."""

    recipient: str | None = None
    type: str | None = None
    state: str | None = None
    lane: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class SearchPage:
    """One page of a search, newest first."""

    messages: Sequence[DictRow]
    next_cursor: int | None
    """Cursor of the next page; None on the last one."""


def search_messages(
    connection: psycopg.Connection[DictRow],
    filters: MessageFilters,
    cursor: int | None,
    limit: int,
    timeout_seconds: float,
    id_span: int = SEARCH_ID_SPAN,
) -> SearchPage:
    """At most `limit` messages below the id `cursor`.

    Scans `id_span` ids at most, so a page may have fewer than `limit` messages, even none, and still a next page.
    DatabaseFailure if a statement takes longer than `timeout_seconds`.
    """
    with connection.transaction():
        connection.execute(statement("messages", "statement_timeout_set"), {"seconds": timeout_seconds})
        bounds = connection.execute(statement("messages", "message_id_bounds")).fetchall()[0]
        lowest = _id_since(connection, filters.since) if filters.since else bounds["oldest"]
        below = _id_since(connection, filters.until) if filters.until else bounds["newest"] + 1
        below = below if cursor is None else min(cursor, below)
        from_id = max(lowest, below - id_span)
        rows = connection.execute(
            statement("messages", "message_search"),
            {**asdict(filters), "from_id": from_id, "below_id": below, "batch_limit": limit},
        ).fetchall()
    if len(rows) == limit:
        return SearchPage(rows, int(rows[-1]["id"]))
    return SearchPage(rows, from_id if from_id > lowest else None)


def _id_since(connection: psycopg.Connection[DictRow], time: datetime) -> int:
    return int(connection.execute(statement("messages", "message_id_since"), {"time": time}).fetchall()[0]["id"])
