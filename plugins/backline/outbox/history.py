"""Reading messages for people: one with its story, a group, a search. Secret fields are named, never shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import DictRow

from backline.db.statements import statement
from backline.outbox.story import Act, Event, Facts, Later, Try, timeline, why
from backline.settings import settings

HIDDEN = "(secret)"
"""Stands in a payload in the place of a secret field's value."""
STRETCH = 500_000
"""Ids that one search looks at: some tenths of a second, however rare what it looks for."""


@dataclass(frozen=True, slots=True)
class History:
    """One message and what happened to it."""

    facts: Facts
    payload: Mapping[str, Any]
    why: str
    timeline: Sequence[Event]


def find(connection: psycopg.Connection[DictRow], message_id: int) -> History | None:
    """One message with its story, or None if there is none of that id."""
    look = {"id": message_id, "heartbeat_timeout": settings().outbox.heartbeat_timeout_seconds}
    row = connection.execute(statement("messages", "message_get"), look).fetchone()
    if row is None:
        return None
    payload = row.pop("payload") | dict.fromkeys(row.pop("sealed"), HIDDEN)
    facts = Facts(**row)
    tries = [
        Try(**found)
        for found in connection.execute(statement("outbox", "message_attempts"), {"id": message_id}).fetchall()
    ]
    asked = {"id": message_id, "taken": facts.group_id or message_id, "request_id": facts.request_id}
    acts = [Act(**found) for found in connection.execute(statement("audit_trail", "acts_on_message"), asked).fetchall()]
    ours = {"id": message_id, "provider_id": facts.provider_id, "channel": facts.channel}
    later = [
        Later(**found)
        for found in connection.execute(statement("delivery_events", "delivery_events_of"), ours).fetchall()
    ]
    return History(facts, payload, why(facts, tries, acts, later), timeline(facts, tries, acts, later))


def group(connection: psycopg.Connection[DictRow], group_id: int) -> list[DictRow]:
    """The messages of a group, one a channel; none if there is no such group."""
    return connection.execute(statement("messages", "message_group"), {"id": group_id}).fetchall()


@dataclass(frozen=True, slots=True)
class Filters:
    """What messages to look for; None matches all. `recipient` is found anywhere in the address, in any case."""

    recipient: str | None = None
    type: str | None = None
    state: str | None = None
    lane: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a search's answer, newest first."""

    messages: Sequence[DictRow]
    next: int | None
    """Cursor of the next page; None when there is nothing further."""


def search(
    connection: psycopg.Connection[DictRow],
    filters: Filters,
    cursor: int | None,
    most: int,
    patience_seconds: float,
    stretch: int = STRETCH,
) -> Page:
    """At most `most` messages below the id `cursor`.

    Looks at `stretch` ids and no more, so a page may have less than `most`, even none, and yet a `next`. DatabaseFailure
    if a statement takes longer than `patience_seconds`.
    """
    with connection.transaction():
        connection.execute(statement("messages", "patience"), {"seconds": patience_seconds})
        bounds = connection.execute(statement("messages", "message_bounds")).fetchall()[0]
        lowest = _id_since(connection, filters.since) if filters.since else bounds["oldest"]
        below = _id_since(connection, filters.until) if filters.until else bounds["newest"] + 1
        below = below if cursor is None else min(cursor, below)
        from_id = max(lowest, below - stretch)
        rows = connection.execute(
            statement("messages", "message_search"),
            {
                "from_id": from_id, "below_id": below, "recipient": filters.recipient, "type": filters.type,
                "state": filters.state, "lane": filters.lane, "request_id": filters.request_id, "most": most,
            },
        ).fetchall()  # fmt: skip
    if len(rows) == most:
        return Page(rows, int(rows[-1]["id"]))
    return Page(rows, from_id if from_id > lowest else None)


def _id_since(connection: psycopg.Connection[DictRow], time: datetime) -> int:
    return int(connection.execute(statement("messages", "message_id_since"), {"time": time}).fetchall()[0]["id"])
