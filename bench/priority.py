"""Latency of urgent emails, 10 a second, while a newsletter of 50,000 drains; on the database's clock."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

import psycopg
from psycopg.rows import DictRow

from backline.db.statements import statement
from backline.errors import UnknownFailure
from bench import outbox
from bench.harness import BenchRun
from bench.peers.emails import recipient
from bench.report import BenchResult, rounded
from testkit.percentile import percentile
from testkit.stack_copy import query

ROUNDS = 3
MESSAGES_PER_SECOND = 10.0
URGENT_LANE = "email.urgent"
BULK_LANE = "email.bulk"
TIMEOUT_SECONDS = 240.0


def run(bench: BenchRun) -> BenchResult:
    """Send newsletters one after the other; the urgent lane is warm, the bulk lane's dispatchers start meanwhile."""
    count = bench.full_or_short(50_000, 500)
    rounds: list[list[float]] = []
    rates: list[float] = []
    loads = []
    with ExitStack() as resources:
        sink = resources.enter_context(bench.smtp_sink())
        stack = bench.full_stack()
        connection = resources.enter_context(stack.connect())
        stack.stop_dispatchers()
        for number in range(bench.full_or_short(ROUNDS, 1)):
            outbox.warm_up_lane(connection, URGENT_LANE, 1, 5)
            before = sink.count()
            bulk = outbox.enqueue_emails(connection, range(count), BULK_LANE)
            urgent = _send_urgent(connection)
            latencies = [row["ms"] for row in query(connection, statement("bench", "message_latencies"), ids=urgent)]
            first, last = outbox.drain_times(connection, bulk)
            sink.expect(before, len(bulk) + len(urgent))
            if len(latencies) != len(urgent):
                raise UnknownFailure(f"{len(latencies)} of {len(urgent)} urgent emails were sent")
            rounds.append(latencies)
            rates.append(count / (last - first))
            loads.append(os.getloadavg()[0])
            bench.report(
                f"priority, round {number + 1}: {len(urgent)} urgent, p99 {percentile(latencies, 0.99):.0f} ms; "
                f"bulk {rates[-1]:,.0f} a second"
            )
    together = [value for latencies in rounds for value in latencies]
    keys = {
        "p99_ms": percentile(together, 0.99),
        "p50_ms": percentile(together, 0.5),
        "urgent": len(together),
        "bulk": count,
        "bulk_per_s": float(round(percentile(rates, 0.5))),
    }
    raw = {"rounds_ms": [rounded(latencies, 2) for latencies in rounds], "bulk_per_s": rounded(rates, 1), "load": loads}
    return BenchResult("priority", keys, raw)


def _send_urgent(connection: psycopg.Connection[DictRow]) -> list[int]:
    """Send urgent emails at a constant rate while the bulk lane has messages; returns their ids once all are final."""
    ids: list[int] = []
    started = time.monotonic()
    while query(connection, statement("bench", "lane_has_waiting"), lane=BULK_LANE)[0]["any"]:
        if time.monotonic() - started > TIMEOUT_SECONDS:
            raise UnknownFailure(f"the bulk lane was not empty after {TIMEOUT_SECONDS:.0f} s")
        number = len(ids)
        email = {"recipient": recipient(number), "payload": outbox.email_payload(number)}
        [row] = query(connection, statement("bench", "email_enqueue"), type="urgent_email", **email)
        ids.append(int(row["id"]))
        time.sleep(max(0.0, started + len(ids) / MESSAGES_PER_SECOND - time.monotonic()))
    outbox.wait_finished(connection, ids, TIMEOUT_SECONDS)
    return ids
