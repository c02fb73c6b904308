"""Emails a second to one SMTP sink: Backline, Celery in two forms, procrastinate, pgqueuer, and a client in C."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

import psycopg
from psycopg.rows import DictRow

from backline.errors import UnknownFailure
from bench import outbox
from bench.harness import BenchRun, SmtpSink
from bench.report import BenchResult, median, rounded
from testkit.processes import LOOPBACK, wait_for

ROUNDS = 3
SOURCE_CONNECTIONS = 8
WARM_UP_COUNT = 4500
"""Enough backlog for two dispatchers, so that the lane has both."""
TIMEOUT_SECONDS = 120.0


def run(bench: BenchRun) -> BenchResult:
    """Measure all sides in turn; rates are medians, ratios are Backline's rate over the other's of the same round."""
    sizes = {
        "backline": bench.full_or_short(20_000, 200),
        "celery": bench.full_or_short(1_500, 200),
        "celery_best": bench.full_or_short(1_500, 200),
        "procrastinate": bench.full_or_short(1_500, 200),
        "pgqueuer": bench.full_or_short(4_000, 200),
        "ceiling": bench.full_or_short(20_000, 200),
    }
    with ExitStack() as resources:
        redis_url = resources.enter_context(bench.redis())
        sink = resources.enter_context(bench.smtp_sink())
        stack = bench.full_stack()
        connection = resources.enter_context(stack.connect())
        databases = {}
        for name in ("procrastinate", "pgqueuer"):
            databases[name] = resources.enter_context(bench.database(name))
            _run_peer_command(bench, name, databases[name], "schema")
        size = bench.mean_email_size()
        sides: dict[str, Callable[[int], float]] = {
            "celery": lambda count: _measure_celery(bench, sink, redis_url, "as_written", count),
            "celery_best": lambda count: _measure_celery(bench, sink, redis_url, "at_its_best", count),
            "procrastinate": lambda count: _measure_database_peer(
                bench, sink, "procrastinate", databases["procrastinate"], count
            ),
            "pgqueuer": lambda count: _measure_database_peer(bench, sink, "pgqueuer", databases["pgqueuer"], count),
            "ceiling": lambda count: _measure_smtp_source(bench, sink, size, count),
            "backline": lambda count: _measure_backline(bench, sink, connection, count),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        loads = []
        for number in range(bench.full_or_short(ROUNDS, 1)):
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
    return BenchResult(
        "throughput",
        keys,
        {"messages": sizes, "per_second": {name: rounded(found, 1) for name, found in rates.items()}, "load": loads},
    )


def _measure_backline(bench: BenchRun, sink: SmtpSink, connection: psycopg.Connection[DictRow], count: int) -> float:
    """Measure from the first attempt to the last completion, by the database's clock, on a warm lane."""
    outbox.warm_up_lane(connection, outbox.LANE, bench.full_or_short(2, 1), bench.full_or_short(WARM_UP_COUNT, 50))
    before = sink.count()
    ids = outbox.enqueue_emails(connection, range(count))
    # Polls the sink first: polling the table would cost the measured database a tenth of a core.
    wait_for(lambda: sink.count() >= before + count, f"{count:,} emails at the sink", TIMEOUT_SECONDS)
    outbox.wait_finished(connection, ids, TIMEOUT_SECONDS)
    first, last = outbox.drain_times(connection, ids)
    sink.expect(before, count)
    return count / (last - first)


def _measure_celery(bench: BenchRun, sink: SmtpSink, redis_url: str, form: str, count: int) -> float:
    environment = bench.peer_environment(
        BENCH_REDIS_URL=redis_url, BENCH_PREFETCH="64" if form == "at_its_best" else "4"
    )
    bench.run_peer("-m", "bench.peers.fill_celery", form, "0", str(count), log="celery-fill", environment=environment)
    before = sink.count()
    with bench.celery_worker(environment):
        return _measure_sink_drain(sink, before, count)


def _measure_database_peer(bench: BenchRun, sink: SmtpSink, name: str, dsn: str, count: int) -> float:
    _run_peer_command(bench, name, dsn, "fill", "0", str(count))
    before = sink.count()
    command = bench.peer_command("-m", f"bench.peers.{name}_run", "work")
    environment = bench.peer_environment(BENCH_DATABASE_URL=dsn)
    running = []
    with ExitStack() as workers:
        for number in range(os.cpu_count() or 2):
            log = f"{name}-worker-{number}"
            running.append(workers.enter_context(bench.managed_process(command, log=log, environment=environment)))
        rate = _measure_sink_drain(sink, before, count)
        for worker in running:
            worker.wait(TIMEOUT_SECONDS)  # until it has committed what it sent; otherwise that would be sent again
        return rate


def _run_peer_command(bench: BenchRun, name: str, dsn: str, *arguments: str) -> None:
    environment = bench.peer_environment(BENCH_DATABASE_URL=dsn)
    bench.run_peer("-m", f"bench.peers.{name}_run", *arguments, log=f"{name}-{arguments[0]}", environment=environment)


def _measure_sink_drain(sink: SmtpSink, before: int, count: int) -> float:
    """Measure from the first email at the sink to the last; the start of a worker is not counted."""
    wait_for(lambda: sink.count() > before, "the first email", TIMEOUT_SECONDS, poll_interval_seconds=0.005)
    started, already = time.monotonic(), sink.count() - before
    wait_for(lambda: sink.count() >= before + count, f"{count:,} emails", TIMEOUT_SECONDS, poll_interval_seconds=0.005)
    seconds = time.monotonic() - started
    sink.expect(before, count)
    return (count - already) / seconds


def _measure_smtp_source(bench: BenchRun, sink: SmtpSink, size: int, count: int) -> float:
    """Measure `smtp-source -d`: persistent connections, no queue, no template, the same size."""
    program = bench.tools.smtp_source()
    command = [str(program.path), "-d", "-s", str(SOURCE_CONNECTIONS), "-l", str(size), "-m", str(count),
               "-f", "shop@example.com", "-t", "reader@example.com", f"{LOOPBACK}:{bench.smtp_port}"]  # fmt: skip
    before, started = sink.count(), time.monotonic()
    with bench.managed_process(command, log="smtp-source", environment=program.environment) as child:
        if child.wait(TIMEOUT_SECONDS):
            raise UnknownFailure(f"smtp-source failed; see {bench.log_file('smtp-source')}")
    seconds = time.monotonic() - started
    sink.expect(before, count)
    return count / seconds
