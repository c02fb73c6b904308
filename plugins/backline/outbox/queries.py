"""Queries about messages: one with its timeline, a group, a search. Secret fields are named, never shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import psycopg

from backline.db.connect import fetch, fetch_one, readable_json
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
    payload: Mapping[str, object]
    explanation: str
    timeline: Sequence[TimelineEvent]


@dataclass(frozen=True, slots=True)
class MessageSummary:
    """A message in a list."""

    id: int
    type: str
    channel: str
    lane: str
    state: str
    recipient: str
    request_id: str | None
    group_id: int | None
    created_at: datetime
    finalized_at: datetime | None
    error_class: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class _StoredMessage(MessageRow):
    payload_json: str
    """Without secret fields."""
    secret_fields_present: list[str]


def get_message(connection: psycopg.Connection[Any], message_id: int) -> MessageDetails | None:
    """One message with its timeline, or None if there is none of that id."""
    parameters: dict[str, Any] = {"id": message_id, "heartbeat_timeout": settings().outbox.heartbeat_timeout_seconds}
    row = fetch_one(connection, statement("messages", "message_get"), _StoredMessage, parameters)
    if row is None:
        return None
    payload = readable_json(row.payload_json) | dict.fromkeys(row.secret_fields_present, REDACTED)
    message = MessageRow(**{each.name: getattr(row, each.name) for each in fields(MessageRow)})
    attempts = fetch(connection, statement("outbox", "message_attempts"), Attempt, {"id": message_id})
    parameters = {"id": message_id, "accepted_id": message.group_id or message_id, "request_id": message.request_id}
    entries = fetch(connection, statement("audit_trail", "entry_list_of_message"), AuditEntry, parameters)
    parameters = {"id": message_id, "provider_id": message.provider_id, "channel": message.channel}
    events = fetch(connection, statement("delivery_events", "delivery_event_list"), DeliveryEventRow, parameters)
    history = (message, attempts, entries, events)
    return MessageDetails(message, payload, explain(*history), timeline(*history))


def get_group(connection: psycopg.Connection[Any], group_id: int) -> list[MessageSummary]:
    """The messages of a group, one per channel; none if there is no such group."""
    return fetch(connection, statement("messages", "message_group"), MessageSummary, {"id": group_id})


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

    messages: Sequence[MessageSummary]
    next_cursor: int | None
    """Cursor of the next page; None on the last one."""


@dataclass(frozen=True, slots=True)
class _IdBounds:
    oldest: int
    newest: int


def search_messages(
    connection: psycopg.Connection[Any],
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
        [bounds] = fetch(connection, statement("messages", "message_id_bounds"), _IdBounds)
        lowest = _id_since(connection, filters.since) if filters.since else bounds.oldest
        below = _id_since(connection, filters.until) if filters.until else bounds.newest + 1
        below = below if cursor is None else min(cursor, below)
        from_id = max(lowest, below - id_span)
        params = {**asdict(filters), "from_id": from_id, "below_id": below, "batch_limit": limit}
        rows = fetch(connection, statement("messages", "message_search"), MessageSummary, params)
    if len(rows) == limit:
        return SearchPage(rows, rows[-1].id)
    return SearchPage(rows, from_id if from_id > lowest else None)


def _id_since(connection: psycopg.Connection[Any], time: datetime) -> int:
    return fetch(connection, statement("messages", "message_id_since"), int, {"time": time})[0]
