"""enqueue: messages enqueued a second by SQL, by Celery's `.delay` and by the peers; and the cost of a commit.

The set-based half gives the same emails to all sides, one producer each, in turn. The commit half runs 16 connections
of pgbench (PostgreSQL's own client, in C): each transaction writes an order, and either one message by
`backline.enqueue` or a plain row of the same payload in a table with only a primary key.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, LiteralString

import psycopg
from pydantic_core import to_json

from backline.errors import UnknownFailure
from bench.harness import TEMPLATE_NAME, BenchRun
from bench.peers.emails import recipient, template_context
from bench.report import BenchResult, rounded

BATCH_SIZE = 5_000
PRODUCER_COUNT = 16
PEER_BATCH_SIZE = 1_000
"""The best size for procrastinate and pgqueuer (tried: 500 to 5,000)."""
MESSAGE_COUNTS = {"backline": 60_000, "celery": 3_000, "procrastinate": 15_000, "pgqueuer": 45_000}
SHORT_MESSAGE_COUNTS = {"backline": 2_000, "celery": 200, "procrastinate": 1_000, "pgqueuer": 1_000}

_ENQUEUE: LiteralString = (
    "SELECT cardinality(backline.enqueue_many('templated_email', %b::text[], %b::text[]::jsonb[]))"
)
"""`%b` sends binary arrays. The text format escapes every quote of every payload: ten times the rest of the client."""
_COUNT_WAITING: LiteralString = (
    "SELECT count(*) FILTER (WHERE state = 'pending'), count(DISTINCT recipient) FROM backline.message"
)
_CREATE_SHOP: LiteralString = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer bigint NOT NULL, total numeric NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE shop.plain_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, type text NOT NULL, recipient text NOT NULL, payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now());
"""
_COUNT_SHOP_ROWS: LiteralString = "SELECT (SELECT count(*) FROM shop.orders), (SELECT count(*) FROM shop.plain_outbox), (SELECT count(*) FROM backline.message)"
_TRANSACTION = """\
\\set number random(1, 1000000000)
BEGIN;
INSERT INTO shop.orders (customer, total) VALUES (:number, :number % 10000);
{second}
COMMIT;
"""
_EMAIL_ARGUMENTS = "'templated_email', 'reader-' || :number || '@customers.example.com', {payload}"
SECOND_INSERTS = {
    "plain": f"INSERT INTO shop.plain_outbox (type, recipient, payload) VALUES ({_EMAIL_ARGUMENTS});",
    "backline": f"SELECT backline.enqueue({_EMAIL_ARGUMENTS});",
}


def run(bench: BenchRun) -> BenchResult:
    """Run both halves on the stack's PostgreSQL, in their own databases."""
    server = bench.database_server()
    with (
        bench.redis() as redis,
        bench.database("enqueue", migrated=True) as ours,
        bench.database("procrastinate") as procrastinate,
        bench.database("pgqueuer") as pgqueuer,
    ):
        peers = PeerProducers(bench, redis, {"procrastinate": procrastinate, "pgqueuer": pgqueuer})
        counts = bench.full_or_short(MESSAGE_COUNTS, SHORT_MESSAGE_COUNTS)
        rates = measure_set_based(ours, counts, bench.full_or_short(5, 1), peers.seconds, bench.report)
    with bench.database("commit", migrated=True) as dsn, TemporaryDirectory(dir=bench.folder) as scripts:
        program = server.stack.cluster.binary_folder() / "pgbench"
        commits = measure_commit_rates(
            program, dsn, Path(scripts), bench.full_or_short(5, 1), bench.full_or_short(4, 1), bench.report
        )
    return build_result(rates, commits)


class PeerProducers:
    """The peers' producers, each a process that measures its own time."""

    def __init__(self, bench: BenchRun, redis: str, databases: Mapping[str, str]) -> None:
        self._bench = bench
        self._redis = redis
        self._databases = databases
        bench.run_peer(
            "-m",
            "bench.peers.procrastinate_run",
            "schema",
            log="enqueue-schema",
            environment=self._environment("procrastinate"),
        )

    def seconds(self, name: str, count: int) -> float:
        """How long the peer took to enqueue `count` emails."""
        batch = [] if name == "celery" else [str(PEER_BATCH_SIZE)]
        log = f"enqueue-{name}"
        self._bench.run_peer(
            "-m", f"bench.peers.enqueue_{name}", str(count), *batch, log=log, environment=self._environment(name)
        )  # fmt: skip
        return float(self._bench.log_file(log).read_text(encoding="utf-8").split()[-1])

    def _environment(self, name: str) -> dict[str, str]:
        return self._bench.peer_environment(
            BENCH_REDIS_URL=self._redis, BENCH_DATABASE_URL=self._databases.get(name, "")
        )


def measure_set_based(
    dsn: str,
    counts: Mapping[str, int],
    rounds: int,
    peer_seconds: Callable[[str, int], float],
    report: Callable[[str], None],
) -> dict[str, list[float]]:
    """Emails a second, for each side and round; UnknownFailure unless each of Backline's is pending exactly once."""
    rates: dict[str, list[float]] = {name: [] for name in counts}
    with psycopg.connect(dsn, autocommit=True) as connection:
        for number in range(rounds):
            for name in counts if number % 2 == 0 else reversed(list(counts)):
                count = counts[name]
                seconds = (
                    _measure_backline(connection, number * count, count)
                    if name == "backline"
                    else peer_seconds(name, count)
                )
                rates[name].append(count / seconds)
            report(
                f"enqueue, round {number + 1}: " + ", ".join(f"{name} {rate[-1]:.0f}/s" for name, rate in rates.items())
            )
        expected = (rounds * counts["backline"],) * 2
        if (found := connection.execute(_COUNT_WAITING).fetchone()) != expected:
            raise UnknownFailure(f"enqueue: {found} pending messages and recipients instead of {expected}")
    return rates


def _measure_backline(connection: psycopg.Connection[tuple[Any, ...]], first: int, count: int) -> float:
    emails = [
        (recipient(number), {"template": TEMPLATE_NAME, "context": template_context(number)})
        for number in range(first, first + count)
    ]
    batches = [emails[start : start + BATCH_SIZE] for start in range(0, count, BATCH_SIZE)]
    started = time.perf_counter()
    # The next batch is serialized while the server processes this one.
    with ThreadPoolExecutor(1) as writer:
        for recipients, payloads in writer.map(_serialize_batch, batches):
            connection.execute(_ENQUEUE, [recipients, payloads])
    return time.perf_counter() - started


def _serialize_batch(emails: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
    return [to for to, _ in emails], [to_json(payload).decode() for _, payload in emails]


def measure_commit_rates(
    program: Path, dsn: str, folder: Path, rounds: int, seconds: int, report: Callable[[str], None]
) -> dict[str, list[float]]:
    """Commits a second, plain and Backline's, in turn; UnknownFailure if rows of a transaction are missing."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_CREATE_SHOP)
        scripts = {}
        for name in SECOND_INSERTS:
            scripts[name] = folder / f"commit_{name}.sql"
            scripts[name].write_text(pgbench_script(name), encoding="utf-8")
        rates: dict[str, list[float]] = {name: [] for name in scripts}
        done = dict.fromkeys(scripts, 0)
        for number in range(rounds):
            for name in scripts if number % 2 == 0 else reversed(scripts):
                transactions, rate = _run_pgbench(program, dsn, scripts[name], seconds)
                done[name] += transactions
                rates[name].append(rate)
            report(
                f"commits, round {number + 1}: " + ", ".join(f"{name} {rate[-1]:.0f}/s" for name, rate in rates.items())
            )
        expected = (sum(done.values()), done["plain"], done["backline"])
        if (found := connection.execute(_COUNT_SHOP_ROWS).fetchone()) != expected:
            raise UnknownFailure(f"enqueue: orders, plain rows and messages are {found}, not {expected}")
    return rates


def pgbench_script(name: str) -> str:
    """pgbench's script: an order and its second row; the payload is an email's with a random number."""
    text = json.dumps({"template": TEMPLATE_NAME, "context": template_context(0)})
    marked = text.replace("Reader 0", "Reader %1$s").replace('"number": 0', '"number": %1$s')
    payload = f"format('{marked}', (:number)::text)::jsonb"
    return _TRANSACTION.format(second=SECOND_INSERTS[name].format(payload=payload))


def _run_pgbench(program: Path, dsn: str, script: Path, seconds: int) -> tuple[int, float]:
    command = [str(program), "--no-vacuum", "--protocol=prepared", f"--client={PRODUCER_COUNT}", "--jobs=1", f"--time={seconds}",
               f"--file={script}", dsn]  # fmt: skip
    done = subprocess.run(
        command,
        check=False,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    transactions = re.search(r"transactions actually processed: (\d+)", done.stdout)
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode or transactions is None or rate is None:
        output = " ".join((done.stderr or done.stdout).split())
        raise UnknownFailure(f"pgbench failed: {output[-300:]}")
    return int(transactions[1]), float(rate[1])


def build_result(rates: Mapping[str, Sequence[float]], commits: Mapping[str, Sequence[float]]) -> BenchResult:
    """Medians over the rounds; a ratio is Backline's rate over the other's of the same round."""
    keys = {
        "ratio_sql": _ratio(rates["backline"], rates["celery"]),
        "ratio_commit": _ratio(commits["backline"], commits["plain"]),
        "sql_per_s": median(rates["backline"]),
        "celery_per_s": median(rates["celery"]),
        "ratio_procrastinate": _ratio(rates["backline"], rates["procrastinate"]),
        "ratio_pgqueuer": _ratio(rates["backline"], rates["pgqueuer"]),
        "commits_per_s": median(commits["backline"]),
        "plain_commits_per_s": median(commits["plain"]),
    }
    raw = {
        "per_second": {name: rounded(found, 0) for name, found in rates.items()},
        "commits_per_second": {name: rounded(found, 0) for name, found in commits.items()},
        "load": rounded(os.getloadavg(), 2),
    }
    return BenchResult("enqueue", keys, raw)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median(our_rate / their_rate for our_rate, their_rate in zip(ours, theirs, strict=True))
