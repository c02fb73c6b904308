"""Letters a second to one SMTP sink: Backline, Celery in two forms, procrastinate, pgqueuer, and a client in C."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

import psycopg
from psycopg.rows import DictRow

from backline.errors import UnknownFailure
from bench import outbox
from bench.harness import Bench, Sink
from bench.report import Figures, median, rounded
from rig.processes import LOOPBACK
from rig.waiting import wait_for

ROUNDS = 3
SOURCE_CONNECTIONS = 8
WARM_UP = 4500
"""More than two dispatchers' worth of backlog, so that the lane has both."""
PATIENCE_SECONDS = 120.0


def run(bench: Bench) -> Figures:
    """Rounds of all sides in turn; the figures are medians, the ratios are ours over theirs in the same round."""
    sizes = {
        "backline": bench.pick(20_000, 200),
        "celery": bench.pick(1_500, 200),
        "celery_best": bench.pick(1_500, 200),
        "procrastinate": bench.pick(1_500, 200),
        "pgqueuer": bench.pick(4_000, 200),
        "ceiling": bench.pick(20_000, 200),
    }
    with ExitStack() as leaving:
        redis_url = leaving.enter_context(bench.redis())
        sink = leaving.enter_context(bench.sink())
        stack = bench.stack()
        connection = leaving.enter_context(stack.connect())
        databases = {}
        for name in ("procrastinate", "pgqueuer"):
            databases[name] = leaving.enter_context(bench.database(name))
            _database_peer(bench, name, databases[name], "schema")
        size = bench.letter_size()
        sides: dict[str, Callable[[int], float]] = {
            "celery": lambda count: _celery(bench, sink, redis_url, "as_written", count),
            "celery_best": lambda count: _celery(bench, sink, redis_url, "at_its_best", count),
            "procrastinate": lambda count: _peer(bench, sink, "procrastinate", databases["procrastinate"], count),
            "pgqueuer": lambda count: _peer(bench, sink, "pgqueuer", databases["pgqueuer"], count),
            "ceiling": lambda count: _ceiling(bench, sink, size, count),
            "backline": lambda count: _ours(bench, sink, connection, count),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        loads = []
        for number in range(bench.pick(ROUNDS, 1)):
            for name, measure in sides.items():
                rates[name].append(measure(sizes[name]))
                bench.report(f"throughput, round {number + 1}: {name} {rates[name][-1]:,.0f} a second")
            loads.append(os.getloadavg()[0])
    medians = {name: median(found) for name, found in rates.items()}

    def ratio(peer: str) -> float:
        return median([ours / theirs for ours, theirs in zip(rates["backline"], rates[peer], strict=True)])

    keys = {
        "ratio": ratio("celery"),
        "ratio_best": ratio("celery_best"),
        "ratio_ceiling": ratio("ceiling"),
        "ratio_procrastinate": ratio("procrastinate"),
        "ratio_pgqueuer": ratio("pgqueuer"),
        **{f"{name}_per_s": float(round(value)) for name, value in medians.items()},
        "bytes": size,
    }
    return Figures(
        "throughput",
        keys,
        {"messages": sizes, "per_second": {name: rounded(found, 1) for name, found in rates.items()}, "load": loads},
    )


def _ours(bench: Bench, sink: Sink, connection: psycopg.Connection[DictRow], count: int) -> float:
    """From the first try to the last completion, by the database's clock; the lane is warm."""
    outbox.warm(connection, outbox.LANE, bench.pick(2, 1), bench.pick(WARM_UP, 50))
    before = sink.count()
    ids = outbox.enqueue(connection, range(count))
    # The sink is asked first: looking at the table meanwhile would cost the measured database a tenth of a core.
    wait_for(lambda: sink.count() >= before + count, f"{count:,} letters at the sink", PATIENCE_SECONDS)
    outbox.wait_finished(connection, ids, PATIENCE_SECONDS)
    first, last = outbox.drained(connection, ids)
    sink.require(before, count)
    return count / (last - first)


def _celery(bench: Bench, sink: Sink, redis_url: str, form: str, count: int) -> float:
    environment = bench.peer_environment(
        BENCH_REDIS_URL=redis_url, BENCH_PREFETCH="64" if form == "at_its_best" else "4"
    )
    bench.run_peer("-m", "bench.peers.celery_fill", form, "0", str(count), log="celery-fill", environment=environment)
    before = sink.count()
    with bench.celery_worker(environment):
        return _watched(sink, before, count)


def _peer(bench: Bench, sink: Sink, name: str, dsn: str, count: int) -> float:
    _database_peer(bench, name, dsn, "fill", "0", str(count))
    before = sink.count()
    command = bench.peer("-m", f"bench.peers.{name}_run", "work")
    environment = bench.peer_environment(BENCH_DATABASE_URL=dsn)
    running = []
    with ExitStack() as workers:
        for number in range(os.cpu_count() or 2):
            log = f"{name}-worker-{number}"
            running.append(workers.enter_context(bench.process(command, log=log, environment=environment)))
        rate = _watched(sink, before, count)
        for worker in running:
            worker.wait(PATIENCE_SECONDS)  # until what it has sent is written down, else it would be sent again
        return rate


def _database_peer(bench: Bench, name: str, dsn: str, *arguments: str) -> None:
    environment = bench.peer_environment(BENCH_DATABASE_URL=dsn)
    bench.run_peer("-m", f"bench.peers.{name}_run", *arguments, log=f"{name}-{arguments[0]}", environment=environment)


def _watched(sink: Sink, before: int, count: int) -> float:
    """From the first letter at the sink to the last: a worker's start is not counted."""
    wait_for(lambda: sink.count() > before, "the first letter", PATIENCE_SECONDS, look_seconds=0.005)
    begun, already = time.monotonic(), sink.count() - before
    wait_for(lambda: sink.count() >= before + count, f"{count:,} letters", PATIENCE_SECONDS, look_seconds=0.005)
    seconds = time.monotonic() - begun
    sink.require(before, count)
    return (count - already) / seconds


def _ceiling(bench: Bench, sink: Sink, size: int, count: int) -> float:
    """`smtp-source -d`: kept connections, no queue, no template, the same size."""
    program = bench.tools.smtp_source()
    command = [str(program.path), "-d", "-s", str(SOURCE_CONNECTIONS), "-l", str(size), "-m", str(count),
               "-f", "shop@example.com", "-t", "reader@example.com", f"{LOOPBACK}:{bench.smtp_port}"]  # fmt: skip
    before, begun = sink.count(), time.monotonic()
    with bench.process(command, log="smtp-source", environment=program.environment) as child:
        if child.wait(PATIENCE_SECONDS):
            raise UnknownFailure(f"smtp-source failed; see {bench.log('smtp-source')}")
    seconds = time.monotonic() - begun
    sink.require(before, count)
    return count / seconds
