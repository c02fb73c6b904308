"""growth: that a claim stays as quick with history, backlog, a million for tomorrow, and under a held snapshot.

The engine's own statements, through its Store, in batches of 500; no SMTP. Each case has a database of its own, filled
and vacuumed before the clock runs; the cases take turns. Before each batch as many messages are put in as it will
take, off the clock, so that a case stays what it is.
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

from backline.db.connect import Database
from backline.db.statements import statement
from backline.errors import UnknownFailure
from backline.outbox.store import Leased, Outcome, Store
from bench.harness import Bench
from bench.report import Figures, rounded

LANE = "email.normal"
BATCH = 500
LEASE_SECONDS = 60.0
DAYS = 30
"""Finished messages lie so many days back."""


@dataclass(frozen=True, slots=True)
class Case:
    """What stands in the table while a claim runs."""

    name: str
    pending: int
    scheduled: int = 0
    finished: int = 0


CASES = (
    Case("1 k pending", 1_000),
    Case("100 k pending", 100_000),
    Case("1 M pending", 1_000_000),
    Case("1 M for tomorrow", 1_000, scheduled=1_000_000),
    Case("5 M finished", 1_000, finished=5_000_000),
)
SHORT_CASES = tuple(
    replace(case, pending=min(case.pending, 2_000), scheduled=case.scheduled // 500, finished=case.finished // 500)
    for case in CASES[::2]
)
ROUNDS = 5
BATCHES = 24
SNAPSHOT_BATCHES = 200
"""100,000 messages done while the snapshot is held."""

_PAYLOAD: LiteralString = """jsonb_build_object('template', 'notice', 'context', jsonb_build_object(
    'heading', 'Order ' || n, 'paragraphs', jsonb_build_array('Thank you, customer ' || n || '.', repeat('It is on its way. ', 24))))"""
_FILL: LiteralString = (
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
_ATTEMPTS: LiteralString = """
INSERT INTO backline.attempt (message_id, number, started_at, duration_ms, outcome, code, dispatcher, dag_run)
SELECT id, 1, finalized_at, 1.5, state, '250', 1, 'dispatch_email/asset_triggered__2026-01-01T00:00:00'
FROM backline.message WHERE id BETWEEN %s AND %s
"""
_INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'backline' AND indexname = ANY (%s)"
_REBUILT: Sequence[LiteralString] = ("message_created", "attempt_message")
_LEFT: LiteralString = (
    "SELECT count(*) FILTER (WHERE state = 'sent'), count(*) FILTER (WHERE state = 'pending'),"
    " (SELECT count(*) FROM backline.attempt) FROM backline.message"
)
_WEIGHT: LiteralString = "SELECT pg_size_pretty(pg_total_relation_size('backline.message')), min(pg_column_size(payload)) FROM (SELECT payload FROM backline.message LIMIT 100) AS sampled"
PLANNED: Mapping[str, Mapping[str, Any]] = {
    "message_promote": {"most": 1000},
    "message_claim": {"lane": LANE, "most": BATCH, "dispatcher": None, "token": "00000000-0000-4000-8000-000000000000",
                      "lease_seconds": LEASE_SECONDS, "rank": -32768, "due_at": "-infinity", "id": 0},
    "lane_status": {"lanes": [LANE, "email.urgent", "email.bulk"], "heartbeat_timeout": 10.0, "most": [2001, 1, 1]},
}  # fmt: skip


def fill(dsn: str, case: Case) -> None:
    """Put a case's rows in and leave the table as autovacuum would have, off the clock."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT backline.attempt_partitions_ensure(current_date - %s, %s)", [DAYS + 1, DAYS + 4])
    if case.finished:
        _fill_finished(dsn, case.finished)
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = {"lane": LANE, "attempt": 0, "low": 1}
        if case.scheduled:
            spread = {"first": "20 hours", "step": "10 milliseconds", "high": case.scheduled, "state": "scheduled"}
            connection.execute(_FILL, rows | spread)
        if case.pending:
            waiting = {"first": "-1 hour", "step": "1 microsecond", "high": case.pending, "state": "pending"}
            connection.execute(_FILL, rows | waiting)
        connection.execute("VACUUM (ANALYZE) backline.message")
        connection.execute("VACUUM (ANALYZE) backline.attempt")


def _fill_finished(dsn: str, count: int) -> None:
    """Two sessions at once; the indexes that only history fills are made afterwards."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET search_path = backline")
        made = connection.execute(_INDEXES, [list(_REBUILT)]).fetchall()
        for name, _ in made:
            connection.execute(SQL("DROP INDEX backline.{}").format(Identifier(name)))
    half = count // 2
    step = f"{DAYS * 86400e6 / count:.0f} microseconds"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: _finished_part(dsn, part[0], part[1], step), [(1, half), (half + 1, count)]))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT setval('backline.message_id', %s)", [count])
        for _, definition in made:
            connection.execute(definition)


def _finished_part(dsn: str, low: int, high: int, step: str) -> None:
    rows = {"lane": LANE, "state": "sent", "attempt": 1, "first": f"-{DAYS} days", "step": step}
    with psycopg.connect(dsn) as connection:
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute(_FILL, {**rows, "low": low, "high": high})
    with psycopg.connect(dsn) as connection:
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute(_ATTEMPTS, [low, high])


class Lane:
    """One case's database while it is measured."""

    def __init__(self, dsn: str, case: Case) -> None:
        self.dsn = dsn
        self.case = case
        self.done = 0
        self.filler = psycopg.connect(dsn, autocommit=True)
        self._store = Store(Database(dsn, name="bench", patience=0), marking=True)

    async def run(self, batches: int) -> list[float]:
        """Claim and complete so many batches; the seconds that each took."""
        dispatcher = await self._store.register(LANE, 16, "bench")
        assert dispatcher is not None
        number = dispatcher[0]
        seconds = []
        try:
            for _ in range(batches):
                self._refill()
                started = time.perf_counter()
                messages = await self._store.claim(LANE, BATCH, number, LEASE_SECONDS)
                ended = await self._store.complete([_sent(message) for message in messages], number, "bench")
                seconds.append(time.perf_counter() - started)
                if len(ended) != BATCH:
                    raise UnknownFailure(f"{self.case.name}: {len(ended)} of {BATCH} messages came back")
                self.done += len(ended)
        finally:
            await self._store.end(number)
        return seconds

    def _refill(self) -> None:
        rows = {"first": "0", "step": "1 microsecond", "low": 1, "high": BATCH, "state": "pending", "attempt": 0}
        self.filler.execute(_FILL, rows | {"lane": LANE})

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """Hold a REPEATABLE READ snapshot of this database, as pg_dump does."""
        with psycopg.connect(self.dsn) as holder:
            holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            holder.execute("SELECT count(*) FROM backline.message_type")
            yield

    def weight(self) -> dict[str, Any]:
        """How large the table is, and the smallest payload (bytes)."""
        size, payload = self.filler.execute(_WEIGHT).fetchone() or ("", 0)
        return {"table": size, "payload_bytes": payload}

    async def close(self) -> None:
        """Close both connections."""
        await self._store.close()
        self.filler.close()


def plans(dsn: str) -> dict[str, str]:
    """The plans of the engine's statements, as run here, and rolled back."""
    found = {}
    with psycopg.connect(dsn, cursor_factory=psycopg.ClientCursor) as connection:
        for name, parameters in PLANNED.items():
            found[name] = _explained(connection, name, parameters)
            connection.rollback()
        claimed = connection.execute(statement("outbox", "message_claim"), PLANNED["message_claim"]).fetchall()
        found["message_complete_many"] = _explained(connection, "message_complete_many", _completion(claimed))
        connection.rollback()
    return found


def check(connection: psycopg.Connection[Any], case: Case, done: int) -> None:
    """Nothing lost, nothing twice: UnknownFailure if the tables do not say that `done` more were sent."""
    row = connection.execute(_LEFT).fetchone()
    expected = (case.finished + done, case.pending, case.finished + done)
    if row != expected:
        raise UnknownFailure(f"{case.name}: sent, pending and attempts are {row}, not {expected}")


def _sent(message: Leased) -> Outcome:
    now = time.monotonic()
    return Outcome(message.id, message.token, "sent", now, now, provider_id="250 2.0.0 Ok: queued as BENCH", code="250")


def _completion(claimed: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    now = time.monotonic()
    outcomes = [Outcome(row[0], row[8], "sent", now, now, provider_id="250 2.0.0 Ok", code="250") for row in claimed]
    return {
        "outcomes": to_json([outcome.as_json(now) for outcome in outcomes]).decode(),
        "dispatcher": 1,
        "dag_run": "bench",
    }


def _explained(connection: psycopg.Connection[Any], name: str, parameters: Mapping[str, Any]) -> str:
    query = "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, SUMMARY ON) " + statement("outbox", name)
    return "\n".join(row[0] for row in connection.execute(query, parameters))


def run(bench: Bench) -> Figures:
    """All cases on the stack's PostgreSQL."""
    bench.server()
    cases = bench.pick(CASES, SHORT_CASES)
    with ExitStack() as made:
        names = [f"growth_{number}" for number in range(len(cases))]
        dsns = [made.enter_context(bench.database(name, migrated=True)) for name in names]
        if bench.short:
            return measure(dict(zip(cases, dsns, strict=True)), 2, 3, 4, bench.report)
        return measure(dict(zip(cases, dsns, strict=True)), ROUNDS, BATCHES, SNAPSHOT_BATCHES, bench.report)


def measure(
    databases: Mapping[Case, str], rounds: int, batches: int, snapshot_batches: int, report: Callable[[str], None]
) -> Figures:
    """Measure all cases, each in its migrated, empty database (DSN), which is left filled."""
    plain: dict[str, list[float]] = {case.name: [] for case in databases}
    held: dict[str, list[float]] = {case.name: [] for case in databases}
    raw: dict[str, Any] = {"plans": {}, "weights": {}}
    for case, dsn in databases.items():
        started = time.monotonic()
        fill(dsn, case)
        report(f"{case.name}: filled in {time.monotonic() - started:.0f} s")
    with asyncio.Runner() as runner:
        lanes = [Lane(dsn, case) for case, dsn in databases.items()]
        try:
            for lane in lanes:
                raw["weights"][lane.case.name] = lane.weight()
                raw["plans"][lane.case.name] = plans(lane.dsn)
                runner.run(lane.run(3))  # connections, caches, prepared statements
            for number in range(rounds):
                for lane in lanes if number % 2 == 0 else reversed(lanes):
                    plain[lane.case.name] += runner.run(lane.run(batches))
            for lane in lanes:
                held[lane.case.name] = seconds = runner.run(_under_snapshot(lane, snapshot_batches))
                usual, slow = BATCH / median(plain[lane.case.name]), BATCH * len(seconds) / sum(seconds)
                report(f"growth: {lane.case.name}: {usual:.0f}/s, under a snapshot {slow:.0f}/s")
                check(lane.filler, lane.case, lane.done)
        finally:
            for lane in lanes:
                runner.run(lane.close())
    return figures(plain, held, raw)


async def _under_snapshot(lane: Lane, batches: int) -> list[float]:
    async with lane.snapshot():
        return await lane.run(batches)


def figures(plain: Mapping[str, Sequence[float]], held: Mapping[str, Sequence[float]], raw: dict[str, Any]) -> Figures:
    """Falls against the first case without a snapshot: the median batch; under the snapshot all batches, as it gets worse."""
    rates = {name: BATCH / median(seconds) for name, seconds in plain.items()}
    snapshot = {name: BATCH * len(seconds) / sum(seconds) for name, seconds in held.items()}
    late = {name: BATCH / median(seconds[-max(1, len(seconds) // 10) :]) for name, seconds in held.items()}
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
    return Figures("growth", keys, raw)
