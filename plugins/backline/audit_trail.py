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
class Who:
    """Who acts, and in which request."""

    actor: str
    request_id: str | None = None


def record(
    connection: psycopg.Connection[DictRow],
    who: Who,
    act: str,
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
        statement("audit_trail", "act_record"),
        {
            "actor": who.actor, "act": act, "object": target, "before": _json(before), "after": _json(after),
            "request_id": who.request_id,
        },
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filters:
    """What acts to look for; None matches all."""

    actor: str | None = None
    act: str | None = None
    object: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def search(connection: psycopg.Connection[DictRow], filters: Filters, cursor: int | None, most: int) -> list[DictRow]:
    """At most `most` acts, newest first, below the id `cursor`."""
    return connection.execute(
        statement("audit_trail", "act_search"),
        {
            "actor": filters.actor, "act": filters.act, "object": filters.object, "request_id": filters.request_id,
            "since": filters.since, "until": filters.until, "cursor": cursor, "most": most,
        },
    ).fetchall()  # fmt: skip


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)
