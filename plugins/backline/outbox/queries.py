"""Reading messages for people: one with its story, a group, a search. Secret fields are named, never shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import DictRow

from backline.db.statements import statement
from backline.outbox.timeline import Attempt, AuditEntry, DeliveryEventRow, MessageRow, TimelineEvent, explain, timeline
from backline.settings import settings

REDACTED = "(secret)"
"""Stands in a payload in the place of a secret field's value."""
SEARCH_ID_SPAN = 500_000
"""Ids that one search looks at: some tenths of a second, however rare what it looks for."""


@dataclass(frozen=True, slots=True)
class MessageDetails:
    """One message and what happened to it."""

    message: MessageRow
    payload: Mapping[str, Any]
    explanation: str
    timeline: Sequence[TimelineEvent]


def get_message(connection: psycopg.Connection[DictRow], message_id: int) -> MessageDetails | None:
    """One message with its story, or None if there is none of that id."""
    look = {"id": message_id, "heartbeat_timeout": settings().outbox.heartbeat_timeout_seconds}
    row = connection.execute(statement("messages", "message_get"), look).fetchone()
    if row is None:
        return None
    payload = row.pop("payload") | dict.fromkeys(row.pop("secret_fields_present"), REDACTED)
    facts = MessageRow(**row)
    tries = [
        Attempt(**found)
        for found in connection.execute(statement("outbox", "message_attempts"), {"id": message_id}).fetchall()
    ]
    asked = {"id": message_id, "accepted_id": facts.group_id or message_id, "request_id": facts.request_id}
    acts = [
        AuditEntry(**found)
        for found in connection.execute(statement("audit_trail", "entry_list_of_message"), asked).fetchall()
    ]
    ours = {"id": message_id, "provider_id": facts.provider_id, "channel": facts.channel}
    later = [
        DeliveryEventRow(**found)
        for found in connection.execute(statement("delivery_events", "delivery_event_list"), ours).fetchall()
    ]
    return MessageDetails(facts, payload, explain(facts, tries, acts, later), timeline(facts, tries, acts, later))


def get_group(connection: psycopg.Connection[DictRow], group_id: int) -> list[DictRow]:
    """The messages of a group, one a channel; none if there is no such group."""
    return connection.execute(statement("messages", "message_group"), {"id": group_id}).fetchall()


@dataclass(frozen=True, slots=True)
class MessageFilters:
    """What messages to look for; None matches all. `recipient` is found anywhere in the address, in any case."""

    recipient: str | None = None
    type: str | None = None
    state: str | None = None
    lane: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Part of a search's answer, newest first."""

    messages: Sequence[DictRow]
    next_cursor: int | None
    """Cursor of the next page; None when there is nothing further."""


def search_messages(
    connection: psycopg.Connection[DictRow],
    filters: MessageFilters,
    cursor: int | None,
    limit: int,
    timeout_seconds: float,
    id_span: int = SEARCH_ID_SPAN,
) -> SearchPage:
    """At most `most` messages below the id `cursor`.

    Looks at `stretch` ids and no more, so a page may have less than `most`, even none, and yet a `next`. DatabaseFailure
    if a statement takes longer than `patience_seconds`.
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
            {
                "from_id": from_id, "below_id": below, "recipient": filters.recipient, "type": filters.type,
                "state": filters.state, "lane": filters.lane, "request_id": filters.request_id, "batch_limit": limit,
            },
        ).fetchall()  # fmt: skip
    if len(rows) == limit:
        return SearchPage(rows, int(rows[-1]["id"]))
    return SearchPage(rows, from_id if from_id > lowest else None)


def _id_since(connection: psycopg.Connection[DictRow], time: datetime) -> int:
    return int(connection.execute(statement("messages", "message_id_since"), {"time": time}).fetchall()[0]["id"])
