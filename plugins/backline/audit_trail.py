"""The audit trail: who did what. An act's row is written in the act's own transaction, so neither stands alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import DictRow

from backline.db.statements import statement


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and in which request."""

    name: str
    request_id: str | None = None


def record(
    connection: psycopg.Connection[DictRow],
    actor: Actor,
    action: str,
    target: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write down one act in the caller's transaction.

    `act` as in "message.cancel", `target` as in "message/17". `before` and `after` say what changed; never give them a
    payload's values, which may be secret.
    """
    connection.execute(
        statement("audit_trail", "entry_insert"),
        {
            "actor": actor.name, "action": action, "target": target, "before": _json(before), "after": _json(after),
            "request_id": actor.request_id,
        },
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filters:
    """What acts to look for; None matches all."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def search(connection: psycopg.Connection[DictRow], filters: Filters, cursor: int | None, limit: int) -> list[DictRow]:
    """At most `most` acts, newest first, below the id `cursor`."""
    return connection.execute(
        statement("audit_trail", "entry_search"),
        {
            "actor": filters.actor, "action": filters.action, "target": filters.target, "request_id": filters.request_id,
            "since": filters.since, "until": filters.until, "cursor": cursor, "batch_limit": limit,
        },
    ).fetchall()  # fmt: skip


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)
