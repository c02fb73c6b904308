"""`./backline jobs`: each command on a real database."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import psycopg
import pytest

from backline.cli.__main__ import run
from backline.jobs.results import ResultStore, RunRef

RUN = "count_orders:scheduled__2026-01-01T00:00:00+00:00"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def jobs(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command: its exit code, stdout and stderr."""
    monkeypatch.setenv("BACKLINE_DATABASE_URL", database)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["backline", "jobs", *arguments])
        code = run()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def store(database: str) -> ResultStore:
    return ResultStore(database, RunRef.parse(RUN), 3600)


def test_the_result_of_a_run(jobs: Command, store: ResultStore) -> None:
    store.result({"orders": 17, "note": "Zoë"})
    code, printed, _ = jobs("result", RUN)
    assert (code, json.loads(printed)) == (0, {"orders": 17, "note": "Zoë"})
    found = json.loads(jobs("result", RUN, "--json")[1])
    assert (found["dag_id"], found["percent"], found["result"]["orders"]) == ("count_orders", 100, 17)
    assert found["expires_at"] > found["updated_at"]


def test_the_progress_of_a_run(jobs: Command, store: ResultStore) -> None:
    store.progress(40, "counting [all] orders")
    code, printed, _ = jobs("progress", RUN)
    assert code == 0
    assert printed.startswith("40 %  counting [all] orders  (at 20")
    found = json.loads(jobs("progress", RUN, "--json")[1])
    assert (found["percent"], found["doing"]) == (40, "counting [all] orders")
    assert "result" not in found
    code, printed, error = jobs("result", RUN)
    assert (code, printed) == (1, "")
    assert error == f"backline: run {RUN} has no result yet: it is at 40 %\n"


@pytest.mark.parametrize("command", ["result", "progress"])
def test_an_unknown_or_expired_run_is_an_error_with_the_reasons(
    jobs: Command, store: ResultStore, database: str, command: str
) -> None:
    store.result(17)
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE backline.job_result SET expires_at = clock_timestamp()")
    for text in (RUN, "count_orders:manual__1"):
        code, printed, error = jobs(command, text)
        assert (code, printed) == (1, "")
        assert error.startswith(f"backline: nothing is stored for run {text}: there is no such run, ")
        assert "no longer kept" in error


def test_a_malformed_run_names_the_format(jobs: Command) -> None:
    code, _, error = jobs("result", "count_orders")
    assert code == 1
    assert (
        error == "backline: RUN: 'count_orders' is not a run; write <dag_id>:<run_id>, as in count_orders:manual__1\n"
    )
