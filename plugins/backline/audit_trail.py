"""The audit trail: who did what. An entry is written in the transaction of its action, so neither exists alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from psycopg.rows import DictRow

from backline.db.connect import Session, readable_json
from backline.db.statements import statement


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and in which request."""

    name: str
    request_id: str | None = None


def record(
    connection: Session,
    actor: Actor,
    action: str,
    target: str,
    *,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
) -> None:
    """Write an entry ("message.cancel", "message/17") in the caller's transaction; no payload values, they may be secret."""
    values = {
        "actor": actor.name, "action": action, "target": target, "request_id": actor.request_id,
        "before": None if before is None else json.dumps(before, default=str),
        "after": None if after is None else json.dumps(after, default=str),
    }  # fmt: skip
    connection.execute(statement("audit_trail", "entry_insert"), values)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which entries to find; None matches all."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def search(connection: Session, filters: Filters, cursor: int | None, limit: int) -> list[DictRow]:
    """Up to `limit` entries, newest first, below the id `cursor`."""
    values = {**asdict(filters), "cursor": cursor, "batch_limit": limit}
    rows = connection.execute(statement("audit_trail", "entry_search"), values).fetchall()
    return [{**row, **{name: readable_json(row[name]) for name in ("before", "after")}} for row in rows]
