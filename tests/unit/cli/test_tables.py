"""Tables of the commands: text is never markup, and a row in a pipe is one line."""

from __future__ import annotations

import pytest
from rich.table import Table

from backline.cli.console import add_row, shorten, show_table


def test_a_row_in_a_pipe_is_one_line_of_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("id", "why", box=None)
    add_row(table, "1", "no [red]route[/red] " + "x" * 100)
    show_table(table)
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == ["1", "no", "[red]route[/red]", "x" * 100]


def test_a_shortened_text_is_its_last_line() -> None:
    assert shorten("Traceback\n  File\nValueError: x") == "ValueError: x"
    assert shorten("x" * 100, 10) == "x" * 9 + "…"
    assert shorten("") == ""
