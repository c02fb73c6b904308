"""`./backline jobs result`: the progress of a run, then its result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from backline.cli.__main__ import run
from backline.jobs.results import ResultStore, RunRef

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def result(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command; returns its exit code and its output."""
    monkeypatch.setenv("BACKLINE_DATABASE_URL", database)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["backline", "jobs", "result", *arguments])
        code = run()
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


def test_progress_is_shown_until_there_is_a_result(database: str, result: Command) -> None:
    store = ResultStore(database, RunRef("report", "r1"), 3600, clock=iter(range(0, 100, 10)).__next__)
    store.progress(40, "reading orders")
    assert result("report", "r1") == (0, "40 % reading orders\n")
    store.result({"rows": 7})
    assert json.loads(result("report", "r1")[1]) == {"rows": 7}
    shown = json.loads(result("report", "r1", "--json")[1])
    assert (shown["job"], shown["run_id"], shown["percent"], shown["result"]) == ("report", "r1", 100, {"rows": 7})


def test_a_run_without_a_result_is_an_error(result: Command) -> None:
    code, printed = result("report", "r2")
    assert code == 1
    assert printed == "backline: run: report/r2 has no result: it has not stored one, or it has expired\n"
