"""Latency from the app's INSERT to the mail server, warm and cold, compared with Celery's `.delay`.

One receiver timestamps the arrivals of both sides on the producers' clock. A warm sample starts before the INSERT
(`.delay`), so it includes the app's commit; Celery runs in its optimized form, with persistent connections.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from psycopg.rows import DictRow

from backline.db.statements import statement
from bench import outbox
from bench.harness import BenchRun
from bench.peers.emails import recipient
from bench.report import BenchResult, rounded
from bench.smtp_receiver import read_arrivals
from testkit.percentile import percentile
from testkit.processes import wait_for
from testkit.stack_copy import StackCopy, query

ROUNDS = 3
MESSAGES_PER_SECOND = 20.0
WARM_UP_COUNT = 20
"""Emails before each round that are not measured."""
COLD_SAMPLES = 10
TIMEOUT_SECONDS = 30.0


def run(bench: BenchRun) -> BenchResult:
    """Measure both sides in turn, then cold starts."""
    count = bench.full_or_short(100, 20)
    numbers = itertools.count(step=count + WARM_UP_COUNT)
    ours: list[float] = []
    from_commit: list[float] = []
    celery: list[float] = []
    loads = []
    with ExitStack() as resources:
        received = resources.enter_context(_start_receiver(bench))
        stack = bench.full_stack()
        connection = resources.enter_context(stack.connect())
        environment = bench.peer_environment(BENCH_REDIS_URL=resources.enter_context(bench.redis()))
        resources.enter_context(bench.celery_worker(environment))
        outbox.warm_up_lane(connection, outbox.LANE, 1, 10)
        for number in range(bench.full_or_short(ROUNDS, 1)):
            inserted, committed = _enqueue_at_rate(connection, next(numbers), WARM_UP_COUNT + count)
            ours += _latencies(received, inserted)
            from_commit += _latencies(received, committed)
            sent = _run_celery_producer(bench, environment, next(numbers), WARM_UP_COUNT + count)
            celery += _latencies(received, sent)
            bench.report(
                f"latency, round {number + 1}: p50 {_percentile_ms(ours, 0.5):.1f} ms, Celery {_percentile_ms(celery, 0.5):.1f} ms"
            )
            loads.append(os.getloadavg()[0])
        cold = [
            _measure_cold_start(bench, stack, connection, received, next(numbers))
            for _ in range(bench.full_or_short(COLD_SAMPLES, 1))
        ]
    keys = {
        "p50_ms": _percentile_ms(ours, 0.5),
        "p99_ms": _percentile_ms(ours, 0.99),
        "celery_p50_ms": _percentile_ms(celery, 0.5),
        "cold_p99_ms": _percentile_ms(cold, 0.99),
        "celery_p99_ms": _percentile_ms(celery, 0.99),
        "from_commit_p50_ms": _percentile_ms(from_commit, 0.5),
        "cold_p50_ms": _percentile_ms(cold, 0.5),
    }
    raw = {
        "per_second": MESSAGES_PER_SECOND,
        "samples": len(ours),
        "cold_samples": len(cold),
        "cold_p99_is": "the slowest of the cold samples",
        "ms": rounded([value * 1000 for value in ours], 2),
        "from_commit_ms": rounded([value * 1000 for value in from_commit], 2),
        "celery_ms": rounded([value * 1000 for value in celery], 2),
        "cold_ms": rounded([value * 1000 for value in cold], 0),
        "load": loads,
    }
    return BenchResult("latency", keys, raw)


@contextmanager
def _start_receiver(bench: BenchRun) -> Iterator[Path]:
    command = [sys.executable, "-P", "-m", "bench.smtp_receiver", str(bench.smtp_port)]
    with bench.managed_process(command, log="smtp-receiver") as child:
        bench.wait_for_port(bench.smtp_port, child, "smtp-receiver")
        yield bench.log_file("smtp-receiver")


def _enqueue_at_rate(
    connection: psycopg.Connection[DictRow], first: int, count: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Enqueue emails at a constant rate, each in its own transaction; returns when each INSERT began and was committed."""
    inserted, committed = {}, {}
    started = time.monotonic()
    for index in range(count):
        time.sleep(max(0.0, started + index / MESSAGES_PER_SECOND - time.monotonic()))
        to, payload = recipient(first + index), outbox.email_payload(first + index)
        inserted[to] = time.monotonic()
        _enqueue(connection, to, payload)
        committed[to] = time.monotonic()
    return inserted, committed


def _enqueue(connection: psycopg.Connection[DictRow], to: str, payload: str) -> None:
    query(connection, statement("bench", "email_enqueue"), type="templated_email", recipient=to, payload=payload)


def _run_celery_producer(bench: BenchRun, environment: Mapping[str, str], first: int, count: int) -> dict[str, float]:
    arguments = ("-m", "bench.peers.paced_celery", str(first), str(count), str(MESSAGES_PER_SECOND))
    bench.run_peer(*arguments, log="celery-pace", environment=environment)
    return read_arrivals(bench.log_file("celery-pace"))


def _latencies(received: Path, started: Mapping[str, float]) -> list[float]:
    """Seconds from `started` to the arrival of each email, without the warm-up."""
    wait_for(lambda: started.keys() <= read_arrivals(received).keys(), f"{len(started)} emails", TIMEOUT_SECONDS)
    found = read_arrivals(received)
    return [found[to] - at for to, at in list(started.items())[WARM_UP_COUNT:]]


def _measure_cold_start(
    bench: BenchRun, stack: StackCopy, connection: psycopg.Connection[DictRow], received: Path, number: int
) -> float:
    """One email in a lane without a dispatcher: the lane trigger, Airflow's scheduler, the start of a task, sending."""
    stack.stop_dispatchers()
    to, payload = recipient(number), outbox.email_payload(number)
    started = time.monotonic()
    _enqueue(connection, to, payload)
    wait_for(lambda: to in read_arrivals(received), "an email from a cold start", TIMEOUT_SECONDS)
    seconds = read_arrivals(received)[to] - started
    bench.report(f"latency, cold start: {seconds:.2f} s")
    return seconds


def _percentile_ms(seconds: list[float], fraction: float) -> float:
    return percentile(seconds, fraction) * 1000
