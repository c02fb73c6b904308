"""Maintenance of the outbox, which also runs while no lane is busy or Airflow is down; and stopping all dispatchers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg

from backline.db.connect import Database, translate_errors
from backline.db.statements import statement
from backline.outbox.store import Store
from backline.settings import Settings, settings

PARTITION_DAYS_AHEAD = 14
BATCH_LIMIT = 5000
MAX_BATCHES = 200
"""Bounds one run; the rest waits for the next.

Between two batches it pauses for as long as the last one took: on two cores, pruning without pauses slowed claims by a third,
with pauses by a tenth.
"""
STOP_POLL_INTERVAL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class PrunedMessages:
    """One batch of `message_prune`."""

    last: int | None
    """The last scanned id; None at the end."""
    old: bool
    """Whether any scanned message was old enough."""
    pruned: int


def run_maintenance(dsn: str) -> dict[str, int]:
    """Rescue, promote, expire, close the ledger's days, create partitions, prune history. Returns counts."""
    return asyncio.run(_run(dsn, settings()))


def stop_dispatchers(dsn: str, timeout: float = 10.0) -> bool:
    """Ask every dispatcher to return its leases and end; True once none is alive, False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    alive = {"heartbeat_timeout": settings().outbox.heartbeat_timeout_seconds}
    with translate_errors(), psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            connection.execute(statement("outbox", "dispatcher_stop_all"))
            row = connection.execute(statement("outbox", "dispatcher_count"), alive).fetchone()
            if row is None or row[0] == 0:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(STOP_POLL_INTERVAL_SECONDS)


async def _run(dsn: str, config: Settings) -> dict[str, int]:
    database = Database(dsn, name="maintenance")
    store = Store(database)
    outbox = config.outbox
    oldest = datetime.now(UTC).date() - timedelta(days=outbox.retention_days)
    try:
        return {
            "rescued": await store.rescue(outbox.max_rescues, outbox.heartbeat_timeout_seconds),
            "promoted": await store.promote(),
            "expired": await store.expire(),
            "days_closed": await _close_days(database),
            "messages_pruned": await _prune_messages(database, oldest),
            "keys_pruned": await _prune_in_batches(database, "idempotency_prune"),
            "events_pruned": await _prune_in_batches(
                database, "delivery_event_prune", retention_days=outbox.retention_days
            ),
            "daily_send_counts_pruned": await _prune_in_batches(database, "daily_send_count_prune"),
            "partitions_created": await _fetch_count(database, "attempt_partitions_create", days=PARTITION_DAYS_AHEAD),
            "partitions_dropped": await _fetch_count(
                database, "attempt_partitions_drop", retention_days=outbox.retention_days
            ),
        }
    finally:
        await store.close()


async def _close_days(database: Database) -> int:
    await database.fetch(statement("outbox", "ledger_add_closed_days"), date)
    closed = 0
    while await database.fetch(statement("outbox", "ledger_freeze_day"), date):
        closed += 1
    return closed


async def _prune_messages(database: Database, before: date) -> int:
    pruned = after = 0
    for _ in range(MAX_BATCHES):
        params = {"before_day": before, "after_id": after, "batch_limit": BATCH_LIMIT}
        async with _throttled():
            [row] = await database.fetch(statement("outbox", "message_prune"), PrunedMessages, params)
        pruned += row.pruned
        if not row.old or row.last is None:
            break
        after = row.last
    return pruned


async def _prune_in_batches(database: Database, name: str, **params: Any) -> int:
    total = 0
    for _ in range(MAX_BATCHES):
        async with _throttled():
            rows = await database.fetch(statement("outbox", name), int, {"batch_limit": BATCH_LIMIT, **params})
        total += len(rows)
        if len(rows) < BATCH_LIMIT:
            break
    return total


@asynccontextmanager
async def _throttled() -> AsyncIterator[None]:
    """Afterwards pauses for as long as the body took."""
    started = time.monotonic()
    yield
    await asyncio.sleep(time.monotonic() - started)


async def _fetch_count(database: Database, name: str, **params: Any) -> int:
    [count] = await database.fetch(statement("outbox", name), int, params)
    return count
