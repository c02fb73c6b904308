"""From the app's INSERT to the mail server, warm and cold, and from `.delay` beside it.

One receiver stamps the arrivals of both sides, on the clock that the producers use too. A warm sample counts from
before the INSERT (`.delay`), so the app's own commit is part of it; Celery is in its best form, with kept connections.
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
from bench.harness import Bench
from bench.peers.letters import recipient
from bench.receiver import arrivals
from bench.report import Figures, percentile, rounded
from rig.stack_copy import StackCopy, query
from rig.waiting import wait_for

ROUNDS = 3
PER_SECOND = 20.0
WARM_UP = 20
"""Letters before each round that are not counted."""
COLD_SAMPLES = 10
PATIENCE_SECONDS = 30.0


def run(bench: Bench) -> Figures:
    """Rounds of both sides in turn, then cold starts."""
    count = bench.pick(100, 20)
    numbers = itertools.count(step=count + WARM_UP)
    ours: list[float] = []
    from_commit: list[float] = []
    celery: list[float] = []
    loads = []
    with ExitStack() as leaving:
        received = leaving.enter_context(_receiver(bench))
        stack = bench.stack()
        connection = leaving.enter_context(stack.connect())
        environment = bench.peer_environment(BENCH_REDIS_URL=leaving.enter_context(bench.redis()))
        leaving.enter_context(bench.celery_worker(environment))
        outbox.warm(connection, outbox.LANE, 1, 10)
        for number in range(bench.pick(ROUNDS, 1)):
            inserted, committed = _insert(connection, next(numbers), WARM_UP + count)
            ours += _latencies(received, inserted)
            from_commit += _latencies(received, committed)
            sent = _delay(bench, environment, next(numbers), WARM_UP + count)
            celery += _latencies(received, sent)
            bench.report(f"latency, round {number + 1}: p50 {_ms(ours, 0.5):.1f} ms, Celery {_ms(celery, 0.5):.1f} ms")
            loads.append(os.getloadavg()[0])
        cold = [_cold(bench, stack, connection, received, next(numbers)) for _ in range(bench.pick(COLD_SAMPLES, 1))]
    keys = {
        "p50_ms": _ms(ours, 0.5),
        "p99_ms": _ms(ours, 0.99),
        "celery_p50_ms": _ms(celery, 0.5),
        "cold_p99_ms": _ms(cold, 0.99),
        "celery_p99_ms": _ms(celery, 0.99),
        "from_commit_p50_ms": _ms(from_commit, 0.5),
        "cold_p50_ms": _ms(cold, 0.5),
    }
    raw = {
        "per_second": PER_SECOND,
        "samples": len(ours),
        "cold_samples": len(cold),
        "cold_p99_is": "the slowest of the cold samples",
        "ms": rounded([value * 1000 for value in ours], 2),
        "from_commit_ms": rounded([value * 1000 for value in from_commit], 2),
        "celery_ms": rounded([value * 1000 for value in celery], 2),
        "cold_ms": rounded([value * 1000 for value in cold], 0),
        "load": loads,
    }
    return Figures("latency", keys, raw)


@contextmanager
def _receiver(bench: Bench) -> Iterator[Path]:
    command = [sys.executable, "-P", "-m", "bench.receiver", str(bench.smtp_port)]
    with bench.process(command, log="smtp-receiver") as child:
        bench.wait_port(bench.smtp_port, child, "smtp-receiver")
        yield bench.log("smtp-receiver")


def _insert(
    connection: psycopg.Connection[DictRow], first: int, count: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Letters at a steady pace, each in a transaction of its own: when each INSERT began, and when it was committed."""
    inserted, committed = {}, {}
    begun = time.monotonic()
    for index in range(count):
        time.sleep(max(0.0, begun + index / PER_SECOND - time.monotonic()))
        to, payload = recipient(first + index), outbox.payload(first + index)
        inserted[to] = time.monotonic()
        _enqueue(connection, to, payload)
        committed[to] = time.monotonic()
    return inserted, committed


def _enqueue(connection: psycopg.Connection[DictRow], to: str, payload: str) -> None:
    query(connection, statement("bench", "letter_enqueue"), type="templated_email", recipient=to, payload=payload)


def _delay(bench: Bench, environment: Mapping[str, str], first: int, count: int) -> dict[str, float]:
    arguments = ("-m", "bench.peers.celery_pace", str(first), str(count), str(PER_SECOND))
    bench.run_peer(*arguments, log="celery-pace", environment=environment)
    return arrivals(bench.log("celery-pace"))


def _latencies(received: Path, begun: Mapping[str, float]) -> list[float]:
    """Seconds from `begun` to the arrival of each, without those that warmed up."""
    wait_for(lambda: begun.keys() <= arrivals(received).keys(), f"{len(begun)} letters", PATIENCE_SECONDS)
    found = arrivals(received)
    return [found[to] - at for to, at in list(begun.items())[WARM_UP:]]


def _cold(
    bench: Bench, stack: StackCopy, connection: psycopg.Connection[DictRow], received: Path, number: int
) -> float:
    """One letter into a lane that nobody serves: doorbell, Airflow's scheduler, the start of a task, the sending."""
    stack.stop_dispatchers()
    to, payload = recipient(number), outbox.payload(number)
    begun = time.monotonic()
    _enqueue(connection, to, payload)
    wait_for(lambda: to in arrivals(received), "a letter from a cold start", PATIENCE_SECONDS)
    seconds = arrivals(received)[to] - begun
    bench.report(f"latency, cold start: {seconds:.2f} s")
    return seconds


def _ms(seconds: list[float], share: float) -> float:
    return percentile(seconds, share) * 1000
