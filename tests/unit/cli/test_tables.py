"""Tables of the commands: text is never markup, and a row in a pipe is one line."""

from __future__ import annotations

import json

import pytest
from rich.table import Table

from backline.cli.console import add_row, err, out, print_json, shorten, show_table, visible


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


HOSTILE = "title\x1b]0;gone\x07 \x9b31m red \x7f\r back"
SHOWN = "title\\x1b]0;gone\\x07 \\x9b31m red \\x7f\\x0d back"


def test_control_characters_are_shown_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("why", box=None)
    add_row(table, HOSTILE)
    show_table(table)
    out.print(HOSTILE, markup=False)
    out.print(f"[red]{HOSTILE}[/]")
    err.print(HOSTILE, markup=False)
    captured = capsys.readouterr()
    assert captured.out.count(SHOWN) == 3
    assert "\x1b" not in captured.out + captured.err
    assert captured.err == f"{SHOWN}\n"
    assert visible("two\tcolumns\n") == "two\tcolumns\n"


def test_json_has_no_control_characters_and_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": HOSTILE}, indent=None)
    shown = capsys.readouterr().out
    assert shown.rstrip("\n").isprintable()
    assert json.loads(shown) == {"text": HOSTILE}


def test_a_line_break_in_a_cell_does_not_look_like_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("why", box=None, show_header=False)
    add_row(table, "one\n2026-01-01 sent")
    show_table(table)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == ["one\\n2026-01-01 sent"]
