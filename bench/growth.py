"""growth: whether claims stay fast with a backlog, a million scheduled messages, history, and a held snapshot.

Runs the engine's statements through its Store in batches of 500, without SMTP. Each case has its own database, filled
and vacuumed before it is measured; the cases run in turn. Before each batch, as many messages are inserted as it will
complete, outside of the measured time, so that the case stays the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL, Identifier
from pydantic_core import to_json

from backline.db.connect import Database, fetch
from backline.db.statements import statement
from backline.errors import UnknownFailure
from backline.outbox.store import LeasedMessage, Outcome, Store
from bench.harness import BenchRun
from bench.report import BenchResult, rounded

LANE = "email.normal"
BATCH_SIZE = 500
LEASE_SECONDS = 60.0
HISTORY_DAYS = 30
"""Finished messages are spread over this many days."""


@dataclass(frozen=True, slots=True)
class TableState:
    """The rows in the table while a claim runs."""

    name: str
    pending: int
    scheduled: int = 0
    finished: int = 0


CASES = (
    TableState("1 k pending", 1_000),
    TableState("100 k pending", 100_000),
    TableState("1 M pending", 1_000_000),
    TableState("1 M for tomorrow", 1_000, scheduled=1_000_000),
    TableState("5 M finished", 1_000, finished=5_000_000),
)
SHORT_CASES = tuple(
    replace(case, pending=min(case.pending, 2_000), scheduled=case.scheduled // 500, finished=case.finished // 500)
    for case in CASES[::2]
)
ROUNDS = 5
BATCH_COUNT = 24
SNAPSHOT_BATCH_COUNT = 200
"""100,000 messages are completed while the snapshot is held."""

_PAYLOAD: LiteralString = """jsonb_build_object('template', 'notice', 'context', jsonb_build_object(
    'heading', 'Order ' || n, 'paragraphs', jsonb_build_array('Thank you, customer ' || n || '.', repeat('It is on its way. ', 24))))"""
_INSERT_MESSAGES: LiteralString = (
    """
INSERT INTO backline.message (id, type, channel, lane, priority, state, recipient, payload, due_at, attempt, max_attempts,
                              created_at, finalized_at, provider_id)
SELECT CASE WHEN %(attempt)s::integer > 0 THEN n ELSE nextval('backline.message_id') END, 'templated_email', 'email', %(lane)s, 5, %(state)s, 'customer' || n || '@example.com', """
    + _PAYLOAD
    + """,
    at, %(attempt)s, 6, least(at, clock_timestamp()), CASE WHEN %(attempt)s::integer > 0 THEN at END,
    CASE WHEN %(attempt)s::integer > 0 THEN '250 2.0.0 Ok: queued as ' || n END
FROM (SELECT n, clock_timestamp() + %(first)s::interval + n * %(step)s::interval AS at
      FROM generate_series(%(low)s::bigint, %(high)s::bigint) AS n) AS numbered
"""
)
_INSERT_ATTEMPTS: LiteralString = """
INSERT INTO backline.attempt (message_id, number, started_at, duration_ms, outcome, code, dispatcher, dag_run)
SELECT id, 1, finalized_at, 1.5, state, '250', 1, 'dispatch_email/asset_triggered__2026-01-01T00:00:00'
FROM backline.message WHERE id BETWEEN %s AND %s
"""
_INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'backline' AND indexname = ANY (%s)"
_REBUILT_INDEXES: Sequence[LiteralString] = ("message_created", "attempt_message")
_COUNT_ROWS: LiteralString = (
    "SELECT count(*) FILTER (WHERE state = 'sent'), count(*) FILTER (WHERE state = 'pending'),"
    " (SELECT count(*) FROM backline.attempt) FROM backline.message"
)
_TABLE_SIZE: LiteralString = "SELECT pg_size_pretty(pg_total_relation_size('backline.message')), min(pg_column_size(payload)) FROM (SELECT payload FROM backline.message LIMIT 100) AS sampled"
EXPLAINED_STATEMENTS: Mapping[str, Mapping[str, Any]] = {
    "message_promote": {"batch_limit": 1000},
    "message_claim": {"lane": LANE, "batch_limit": BATCH_SIZE, "dispatcher": None, "token": "00000000-0000-4000-8000-000000000000",
                      "lease_seconds": LEASE_SECONDS, "after_rank": -32768, "due_at": "-infinity", "id": 0},
    "lane_status": {"lanes": [LANE, "email.urgent", "email.bulk"], "heartbeat_timeout": 10.0, "count_limits": [2001, 1, 1]},
}  # fmt: skip


def fill_table(dsn: str, case: TableState) -> None:
    """Insert a case's rows and vacuum the table; not part of the measured time."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT backline.attempt_partitions_create(current_date - %s, %s)", [HISTORY_DAYS + 1, HISTORY_DAYS + 4]
        )
    if case.finished:
        _fill_finished(dsn, case.finished)
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = {"lane": LANE, "attempt": 0, "low": 1}
        if case.scheduled:
            spread = {"first": "20 hours", "step": "10 milliseconds", "high": case.scheduled, "state": "scheduled"}
            connection.execute(_INSERT_MESSAGES, rows | spread)
        if case.pending:
            pending = {"first": "-1 hour", "step": "1 microsecond", "high": case.pending, "state": "pending"}
            connection.execute(_INSERT_MESSAGES, rows | pending)
        connection.execute("VACUUM (ANALYZE) backline.message")
        connection.execute("VACUUM (ANALYZE) backline.attempt")


def _fill_finished(dsn: str, count: int) -> None:
    """Insert finished rows in two sessions; indexes that only these rows fill are created afterwards."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET search_path = backline")
        indexes = connection.execute(_INDEXES, [list(_REBUILT_INDEXES)]).fetchall()
        for name, _ in indexes:
            connection.execute(SQL("DROP INDEX backline.{}").format(Identifier(name)))
    half = count // 2
    step = f"{HISTORY_DAYS * 86400e6 / count:.0f} microseconds"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: _fill_finished_range(dsn, part[0], part[1], step), [(1, half), (half + 1, count)]))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT setval('backline.message_id', %s)", [count])
        for _, definition in indexes:
            connection.execute(definition)


def _fill_finished_range(dsn: str, low: int, high: int, step: str) -> None:
    rows = {"lane": LANE, "state": "sent", "attempt": 1, "first": f"-{HISTORY_DAYS} days", "step": step}
    with psycopg.connect(dsn) as connection:
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute(_INSERT_MESSAGES, {**rows, "low": low, "high": high})
    with psycopg.connect(dsn) as connection:
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute(_INSERT_ATTEMPTS, [low, high])


class LaneBench:
    """One case's database while it is measured."""

    def __init__(self, dsn: str, case: TableState) -> None:
        self.dsn = dsn
        self.case = case
        self.done = 0
        self.filler = psycopg.connect(dsn, autocommit=True)
        self._store = Store(Database(dsn, name="bench", retry_timeout=0), resume_scans=True)

    async def run(self, batches: int) -> list[float]:
        """Claim and complete batches; returns the seconds of each."""
        dispatcher = await self._store.register(LANE, 16, "bench")
        assert dispatcher is not None
        number = dispatcher[0]
        seconds = []
        try:
            for _ in range(batches):
                self._refill()
                started = time.perf_counter()
                messages = await self._store.claim(LANE, BATCH_SIZE, number, LEASE_SECONDS)
                ended = await self._store.complete([_sent_outcome(message) for message in messages], number, "bench")
                seconds.append(time.perf_counter() - started)
                if len(ended) != BATCH_SIZE:
                    raise UnknownFailure(f"{self.case.name}: {len(ended)} of {BATCH_SIZE} messages were completed")
                self.done += len(ended)
        finally:
            await self._store.unregister(number)
        return seconds

    def _refill(self) -> None:
        rows = {"first": "0", "step": "1 microsecond", "low": 1, "high": BATCH_SIZE, "state": "pending", "attempt": 0}
        self.filler.execute(_INSERT_MESSAGES, rows | {"lane": LANE})

    @asynccontextmanager
    async def hold_snapshot(self) -> AsyncIterator[None]:
        """Hold a REPEATABLE READ snapshot of this database, as pg_dump does."""
        with psycopg.connect(self.dsn) as holder:
            holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            holder.execute("SELECT count(*) FROM backline.message_type")
            yield

    def table_size(self) -> dict[str, Any]:
        """The size of the table, and the smallest payload (bytes)."""
        size, payload = self.filler.execute(_TABLE_SIZE).fetchone() or ("", 0)
        return {"table": size, "payload_bytes": payload}

    async def close(self) -> None:
        """Close both connections."""
        await self._store.close()
        self.filler.close()


def explain_statements(dsn: str) -> dict[str, str]:
    """The plans of the engine's statements, executed and rolled back."""
    found = {}
    with psycopg.connect(dsn, cursor_factory=psycopg.ClientCursor) as connection:
        for name, parameters in EXPLAINED_STATEMENTS.items():
            found[name] = _explain(connection, name, parameters)
            connection.rollback()
        claimed = fetch(
            connection, statement("outbox", "message_claim"), LeasedMessage, EXPLAINED_STATEMENTS["message_claim"]
        )
        found["message_complete_many"] = _explain(connection, "message_complete_many", _completion_parameters(claimed))
        connection.rollback()
    return found


def verify_completed(connection: psycopg.Connection[Any], case: TableState, done: int) -> None:
    """Check that no message is lost or duplicated: UnknownFailure unless `done` more messages were sent."""
    row = connection.execute(_COUNT_ROWS).fetchone()
    expected = (case.finished + done, case.pending, case.finished + done)
    if row != expected:
        raise UnknownFailure(f"{case.name}: sent, pending and attempts are {row}, not {expected}")


def _sent_outcome(message: LeasedMessage) -> Outcome:
    now = time.monotonic()
    return Outcome(message.id, message.token, "sent", now, now, provider_id="250 2.0.0 Ok: queued as BENCH", code="250")


def _completion_parameters(claimed: Sequence[LeasedMessage]) -> dict[str, Any]:
    now = time.monotonic()
    outcomes = [
        Outcome(message.id, message.token, "sent", now, now, provider_id="250 2.0.0 Ok", code="250")
        for message in claimed
    ]
    return {
        "outcomes": to_json([outcome.as_json(now) for outcome in outcomes]).decode(),
        "dispatcher": 1,
        "dag_run": "bench",
    }


def _explain(connection: psycopg.Connection[Any], name: str, parameters: Mapping[str, Any]) -> str:
    query = "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, SUMMARY ON) " + statement("outbox", name)
    return "\n".join(row[0] for row in connection.execute(query, parameters))


def run(bench: BenchRun) -> BenchResult:
    """Run all cases on the stack's PostgreSQL."""
    bench.database_server()
    cases = bench.full_or_short(CASES, SHORT_CASES)
    with ExitStack() as databases:
        names = [f"growth_{number}" for number in range(len(cases))]
        dsns = [databases.enter_context(bench.database(name, migrated=True)) for name in names]
        if bench.short:
            return measure(dict(zip(cases, dsns, strict=True)), 2, 3, 4, bench.report)
        return measure(dict(zip(cases, dsns, strict=True)), ROUNDS, BATCH_COUNT, SNAPSHOT_BATCH_COUNT, bench.report)


def measure(
    databases: Mapping[TableState, str], rounds: int, batches: int, snapshot_batches: int, report: Callable[[str], None]
) -> BenchResult:
    """Measure all cases, each in its migrated, empty database (DSN)."""
    plain: dict[str, list[float]] = {case.name: [] for case in databases}
    held: dict[str, list[float]] = {case.name: [] for case in databases}
    raw: dict[str, Any] = {"plans": {}, "weights": {}}
    for case, dsn in databases.items():
        started = time.monotonic()
        fill_table(dsn, case)
        report(f"{case.name}: filled in {time.monotonic() - started:.0f} s")
    with asyncio.Runner() as runner:
        lanes = [LaneBench(dsn, case) for case, dsn in databases.items()]
        try:
            for lane in lanes:
                raw["weights"][lane.case.name] = lane.table_size()
                raw["plans"][lane.case.name] = explain_statements(lane.dsn)
                runner.run(lane.run(3))  # warm-up: connections, caches, prepared statements
            for number in range(rounds):
                for lane in lanes if number % 2 == 0 else reversed(lanes):
                    plain[lane.case.name] += runner.run(lane.run(batches))
            for lane in lanes:
                held[lane.case.name] = seconds = runner.run(_run_under_snapshot(lane, snapshot_batches))
                usual, slow = BATCH_SIZE / median(plain[lane.case.name]), BATCH_SIZE * len(seconds) / sum(seconds)
                report(f"growth: {lane.case.name}: {usual:.0f}/s, under a snapshot {slow:.0f}/s")
                verify_completed(lane.filler, lane.case, lane.done)
        finally:
            for lane in lanes:
                runner.run(lane.close())
    return build_result(plain, held, raw)


async def _run_under_snapshot(lane: LaneBench, batches: int) -> list[float]:
    async with lane.hold_snapshot():
        return await lane.run(batches)


def build_result(
    plain: Mapping[str, Sequence[float]], held: Mapping[str, Sequence[float]], raw: dict[str, Any]
) -> BenchResult:
    """Without a snapshot, compare median batches with the first case; under the snapshot, all batches with the own case."""
    rates = {name: BATCH_SIZE / median(seconds) for name, seconds in plain.items()}
    snapshot = {name: BATCH_SIZE * len(seconds) / sum(seconds) for name, seconds in held.items()}
    late = {name: BATCH_SIZE / median(seconds[-max(1, len(seconds) // 10) :]) for name, seconds in held.items()}
    base = next(iter(rates.values()))
    keys = {
        "drop_pct": max(0.0, *(100 * (1 - rate / base) for rate in rates.values())),
        "snapshot_drop_pct": max(0.0, *(100 * (1 - rate / rates[name]) for name, rate in snapshot.items())),
        "rate": base,
    }
    raw |= {
        "rates": {name: round(rate) for name, rate in rates.items()},
        "snapshot_rates": {name: round(rate) for name, rate in snapshot.items()},
        "snapshot_last_rates": {name: round(rate) for name, rate in late.items()},
        "batch_ms": {name: rounded([s * 1000 for s in seconds], 2) for name, seconds in plain.items()},
        "snapshot_batch_ms": {name: rounded([s * 1000 for s in seconds], 2) for name, seconds in held.items()},
    }
    return BenchResult("growth", keys, raw)
