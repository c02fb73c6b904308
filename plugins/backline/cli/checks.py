"""Commands for those who change Backline: test, check."""

from __future__ import annotations

import fnmatch
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import typer

from backline.cli.app import PASS_THROUGH, app
from backline.cli.console import err, out, stack
from backline.messages import schema_snapshot
from backline.settings import ROOT

MYPY_FOLDERS = ("plugins", "sandbox", "testkit", "chaos")
"""Folders that mypy checks."""
ACCEPTANCE_TESTS = "tests/acceptance"
"""Tests of the running product: a stack each for the benches, for commerce and for all others (tests/conftest.py)."""
LOCK_FILES = ("requirements", "requirements-image", "bench/requirements", "testkit/containers/requirements")
"""Lists of libraries (.in) with their lock files (.txt)."""
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*(==\s*([^\s;\\]+))?")


@app.command(context_settings=PASS_THROUGH, add_help_option=False)
def test(context: typer.Context) -> None:
    """Set up, then run the tests; arguments go to pytest."""
    raise typer.Exit(_run_pytest(context.args) if context.args else _run_test_suite())


@app.command()
def check() -> None:
    """What CI runs: format, lint, types, lock files, launcher, tests."""
    steps: dict[str, Callable[[], int]] = {
        "format": lambda: _run([sys.executable, "-P", "-m", "ruff", "format", "--check", "."]),
        "lint": lambda: _run([sys.executable, "-P", "-m", "ruff", "check", "."]),
        "types": lambda: _run([sys.executable, "-P", "-m", "mypy", *MYPY_FOLDERS]),
        "lock files": _check_locks,
        "launcher": lambda: _run(["/bin/sh", "-n", str(ROOT / "backline")]),
        "message types": lambda: schema_snapshot.main(()),
        "tests": _run_test_suite,
    }
    failed = []
    for name, step in steps.items():
        err.rule(name, style="dim")
        if step():
            failed.append(name)
    for name in steps:
        out.print(f"[red]FAILED[/] {name}" if name in failed else f"[green]ok[/]     {name}")
    if failed:
        err.print(f"backline: failed: {', '.join(failed)}; what to mend is shown above", markup=False)
    raise typer.Exit(1 if failed else 0)


def lock_problems(wanted: Path, locked: Path) -> list[str]:
    """What requirements.in asks for and the lock file lacks, or has unhashed."""
    pinned = locked_versions(locked)
    problems = [
        f"{match[1]} has no hash" for match, block in _requirement_blocks(locked) if "--hash=sha256:" not in block
    ]
    for line in wanted.read_text(encoding="utf-8").splitlines():
        match = _REQUIREMENT.match(line)
        if match is None:
            continue
        found = pinned.get(_normalize(match[1]), set())
        if not found:
            problems.append(f"{match[1]} is not locked")
        elif match[3] and not fnmatch.filter(found, match[3]):
            problems.append(f"{match[1]} is locked at {', '.join(sorted(found))}, not {match[3]}")
    return problems


def locked_versions(locked: Path) -> dict[str, set[str]]:
    """The versions that a lock file has of each library; several where they differ by Python."""
    found: dict[str, set[str]] = {}
    for match, _ in _requirement_blocks(locked):
        found.setdefault(_normalize(match[1]), set()).add(match[3] or "")
    return found


def _requirement_blocks(locked: Path) -> Iterator[tuple[re.Match[str], str]]:
    for block in re.split(r"\n(?=\S)", locked.read_text(encoding="utf-8")):
        if match := _REQUIREMENT.match(block):
            yield match, block


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _check_locks() -> int:
    found = 0
    for name in LOCK_FILES:
        for problem in lock_problems(ROOT / f"{name}.in", ROOT / f"{name}.txt"):
            found += 1
            err.print(f"{name}.txt: {problem}; make it anew with the command on top of {name}.in", markup=False)
    return found


def _run_test_suite() -> int:
    # Three on two cores: the one that breaks a stack mostly waits.
    others = _run_pytest(["-n", "3", "--no-loadscope-reorder", "tests", f"--ignore={ACCEPTANCE_TESTS}"])
    return _run_pytest(["-n", "3", "--no-loadscope-reorder", ACCEPTANCE_TESTS]) or others


def _run_pytest(arguments: Sequence[str]) -> int:
    current = stack()
    with current.temporary_setup():
        return _run([sys.executable, "-P", "-m", "pytest", *arguments], current.subprocess_environment())


def _run(command: list[str], environment: dict[str, str] | None = None) -> int:
    """Run a command to its end. Told to stop meanwhile, stop it first: the tests then take away what they have started."""
    told: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def stop(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        if number == signal.SIGTERM and child is not None:  # a SIGINT from the terminal the child has had too
            child.send_signal(signal.SIGINT)

    # Before the child starts: a shell's background job is deaf to SIGINT, and the child would be so too.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with subprocess.Popen(command, cwd=ROOT, env=environment or dict(os.environ)) as child:  # noqa: S603
            code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        sys.exit(128 + told[0])
    return code
