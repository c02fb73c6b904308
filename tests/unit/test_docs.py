"""Every `./backline` command in the documents exists and has the options that are shown; links and anchors resolve."""

from __future__ import annotations

import argparse
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from backline.cli.__main__ import load_commands
from backline.cli.console import app
from backline.settings import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
_INLINE = re.compile(r"`(?:[A-Z_]+=\S+ )?\./backline([^`]*)`")
_BLOCK = re.compile(r"^```sh\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"\./backline([^\n)]*)")
_PLACEHOLDER = re.compile(r"[A-Z]+|<.*>")


def commands(text: str) -> list[list[str]]:
    """The arguments of each command in a page: in its text and in its shell blocks."""
    inline = _INLINE.findall(re.sub(_BLOCK, "", text))
    blocks = [line for block in _BLOCK.findall(text) for line in _LINE.findall(block)]
    found = [shlex.split(" ".join(line.split()).partition(" [")[0], comments=True) for line in [*inline, *blocks]]
    return [arguments for arguments in found if arguments]


load_commands()
SHOWN = [
    (page.name, line)
    for page in PAGES
    for line in sorted({shlex.join(each) for each in commands(page.read_text(encoding="utf-8"))})
]


@cache
def airflow() -> argparse.ArgumentParser:
    from airflow.cli.cli_parser import get_parser

    return get_parser()


def problem(arguments: list[str]) -> str | None:
    """The error in a command line, which may contain placeholders such as NAME or ...; None if it is valid."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    name, *rest = ["1" if _PLACEHOLDER.fullmatch(word) else word for word in arguments if word not in ("...", "[...]")]
    if name.startswith("-"):
        return None if name in {"--help", *(option for param in group.params for option in param.opts)} else name
    while isinstance(command := group.commands.get(name), TyperGroup) and rest:
        group, (name, *rest) = command, rest
    if command is None:
        return f"no command {name!r}"
    if name == "airflow":
        return _airflow_problem(rest)
    if name == "test":
        return next((f"no file {word!r}" for word in rest if "/" in word and not (ROOT / word).exists()), None)
    try:
        command.make_context(name, rest)
    except typer.TyperException as exc:
        return exc.format_message()
    return None


def _airflow_problem(arguments: list[str]) -> str | None:
    parser = airflow()
    for word in arguments:
        subcommands = next((each for each in parser._actions if isinstance(each, argparse._SubParsersAction)), None)
        if subcommands is not None:
            if word not in subcommands.choices:
                return f"airflow has no {word!r}"
            parser = subcommands.choices[word]
        elif word.startswith("-") and word not in parser._option_string_actions:
            return f"airflow: no option {word!r}"
    return None


def test_commands_are_found() -> None:
    assert len(SHOWN) > 25


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_each_shown_command_is_valid(page: str, line: str) -> None:
    assert problem(shlex.split(line)) is None, page


@pytest.mark.parametrize(
    "line",
    ["start", "status --jsonn", "--versions", "airflow dags list-runz", "airflow dags pause --for dispatch_email",
     "test tests/acceptance/test_kelery.py", "logs --lines ten"],
)  # fmt: skip
def test_an_invalid_command_is_reported(line: str) -> None:
    assert problem(line.split())


def test_commands_are_found_in_text_and_blocks() -> None:
    text = '`./backline up`, `X=1 ./backline logs -f`\n```sh\n./backline status --json # all\neval "$(./backline env)"\n```\n'
    assert commands(text) == [["up"], ["logs", "-f"], ["status", "--json"], ["env"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    for target in targets:
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


def test_each_promise_of_security_has_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1000
    promises = text.partition("## Promises")[2].partition("## Not defended")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, f"no test: {row}"
        for path, test in named:
            assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), test


@cache
def _anchors(page: Path) -> frozenset[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return frozenset(_anchor(heading) for heading in headings)


def _anchor(heading: str) -> str:
    """The anchor that GitHub generates for a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
