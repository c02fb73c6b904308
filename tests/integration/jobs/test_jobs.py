"""What a job has of the database: progress, result, a rate, what it needs; and its watchdog."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from backline.errors import InvalidInput
from backline.jobs.limits import missing_tables, reserve_rate_token
from backline.jobs.results import MAX_RESULT_BYTES, ResultStore, RunRef, prune_results
from backline.jobs.watchdog import HARD_LIMIT, MEMORY_LIMIT
from backline.settings import ROOT
from tests.integration.job_factory import create_job, get_result

RUN = RunRef("report", "r1")


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def reporter(database: str, now: list[float]) -> ResultStore:
    return ResultStore(database, RUN, 3600, lambda: now[0])


def test_progress_is_seen_while_the_job_runs(database: str, reporter: ResultStore) -> None:
    assert get_result(database, RUN) is None
    assert reporter.progress(10, "reading")
    seen = get_result(database, RUN)
    assert seen is not None
    assert (seen["percent"], seen["doing"], seen["result"]) == (10, "reading", None)


def test_progress_is_written_once_a_second_at_most_and_the_end_always(
    database: str, reporter: ResultStore, now: list[float]
) -> None:
    written = 0
    for step in range(1000):
        now[0] += 0.01
        written += reporter.progress(step / 10)
    assert 10 <= written <= 11
    assert reporter.progress(100, "done")
    seen = get_result(database, RUN)
    assert seen is not None
    assert (seen["percent"], seen["doing"]) == (100, "done")


def test_a_result_is_kept_and_then_forgotten(database: str, reporter: ResultStore) -> None:
    reporter.progress(50, "half")
    reporter.result({"rows": 7})
    seen = get_result(database, RUN)
    assert seen is not None
    assert (seen["percent"], seen["result"]) == (100, {"rows": 7})
    assert prune_results(database) == 0
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE backline.job_result SET expires_at = clock_timestamp()")
    assert get_result(database, RUN) is None
    assert prune_results(database) == 1


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"password": "x"}, "result.password"),
        ({"user": [{"api_key": "x"}]}, "result.user.0.api_key"),
        ("x" * MAX_RESULT_BYTES, "result"),
        ({1, 2}, "result"),
        (float("nan"), "result"),
        ("a\0b", "result"),
        ("half\ud800", "result"),
        ({"outcomes": {"token": "x"}}, "result.outcomes.token"),
    ],
)
def test_what_is_no_result_is_refused(database: str, reporter: ResultStore, value: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        reporter.result(value)
    assert refused.value.field == field
    assert get_result(database, RUN) is None


def test_progress_out_of_range_is_refused(reporter: ResultStore) -> None:
    with pytest.raises(InvalidInput, match="percent: 101 is not from 0 to 100"):
        reporter.progress(101)


def test_a_rate_gives_one_token_an_interval_to_each_in_turn(database: str) -> None:
    waits = [reserve_rate_token(database, "report", 20) for _ in range(4)]
    assert waits[0] == 0
    for place, wait in enumerate(waits[1:], 1):
        assert 3 * place - 1 < wait <= 3 * place
    assert reserve_rate_token(database, "other", 20) == 0


def test_tables_that_are_not_there_are_named(database: str) -> None:
    assert missing_tables(database, ["backline.message", "shop.orders", "no_such"]) == ["shop.orders", "no_such"]
    columns = ["backline.message.id", "backline.message.colour", "shop.orders.id"]
    assert missing_tables(database, columns) == ["backline.message.colour", "shop.orders.id"]


STUCK = """
import sys, time, ctypes
from backline.jobs.watchdog import start_watchdog
kept = start_watchdog(float(sys.argv[1]), int(sys.argv[2]))
print("watched", flush=True)
if sys.argv[3] == "stuck":
    ctypes.PyDLL(None).sleep(60)  # in C, with the interpreter's lock held
elif sys.argv[3] == "greedy":
    held = b"x" * (200 * 1024 * 1024)
    time.sleep(60)
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def run(started: list[subprocess.Popen[str]], seconds: float, memory: int, how: str) -> tuple[int, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(seconds), str(memory), how], env={"PYTHONPATH": str(ROOT / "plugins")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip
    started.append(process)
    _, said = process.communicate(timeout=40)
    return process.returncode, said


def test_a_task_stuck_in_c_code_is_killed_at_its_hard_limit(started: list[subprocess.Popen[str]]) -> None:
    code, said = run(started, 1.5, 0, "stuck")
    assert code == -9
    assert said.startswith(HARD_LIMIT)


def test_a_task_over_its_memory_limit_is_killed(started: list[subprocess.Popen[str]]) -> None:
    code, said = run(started, 60, 100, "greedy")
    assert code == -9
    assert said.startswith(f"{MEMORY_LIMIT} of 100 MiB is exceeded: ")


def test_a_task_that_ends_in_time_ends_its_watchdog(started: list[subprocess.Popen[str]]) -> None:
    code, said = run(started, 60, 1000, "well")  # communicate() returns once nobody holds stderr: the watchdog is gone
    assert (code, said) == (0, "")


def test_results_are_json(reporter: ResultStore, database: str) -> None:
    reporter.result([1, {"a": None}])
    seen = get_result(database, RUN)
    assert seen is not None
    assert json.dumps(seen["result"]) == '[1, {"a": null}]'


def test_a_backslash_before_u0000_is_text(reporter: ResultStore, database: str) -> None:
    reporter.result("\\u0000")
    seen = get_result(database, RUN)
    assert seen is not None
    assert seen["result"] == "\\u0000"


@pytest.mark.parametrize("value", [object(), b"\xff", "half\ud800", {"a": {1: {2: "half\ud800"}}}])
def test_what_a_function_returns_must_be_json(database: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match="result"):
        create_job(database, None).execute(lambda _: value)
