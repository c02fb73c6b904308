"""Tables of the commands: others' words as they are, and in a pipe one line a row."""

from __future__ import annotations

import pytest
from rich.table import Table

from backline.cli.console import add_row, shorten, show_table


def test_a_row_in_a_pipe_is_one_line_with_its_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("id", "why", box=None)
    add_row(table, "1", "no [red]route[/red] " + "x" * 100)
    show_table(table)
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == ["1", "no", "[red]route[/red]", "x" * 100]


def test_in_short_is_the_last_line() -> None:
    assert shorten("Traceback\n  File\nValueError: x") == "ValueError: x"
    assert shorten("x" * 100, 10) == "x" * 9 + "…"
    assert shorten("") == ""
