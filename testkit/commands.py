"""Commands for developers of Backline: test, check, generate."""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from backline.cli.console import PASS_THROUGH, app, err, out, print_progress
from backline.errors import InvalidInput
from backline.settings import ROOT
from stack.lifecycle import Stack
from testkit import schema_snapshot
from testkit.processes import exit_on_signal
from testkit.suite import run_command, run_to_end
from testkit.wording import check_wording

MYPY_FOLDERS = ("plugins", "sandbox", "testkit", "chaos", "stack", "demo", "bench", "dags", "tests")
"""Folders that mypy checks."""
LOCK_FILES = ("requirements", "requirements-image", "bench/requirements", "testkit/containers/requirements")
"""Lists of requirements (.in) with their lock files (.txt)."""
GENERATED_FILES = {
    "testkit.settings_file": ("include/config/backline.toml",),
    "testkit.dag_docs": ("docs/dags.md",),
    "testkit.message_docs": ("docs/messages.md",),
    "bench.performance_page": ("docs/performance.md", "docs/img/performance/*.svg"),
}
"""Module that writes files from other sources → those files. `generate` also writes the snapshot of message types."""
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*(==\s*([^\s;\\]+))?")


@app.command(context_settings=PASS_THROUGH, add_help_option=False)
def test(context: typer.Context) -> None:
    """Set up, then run the tests of CI; arguments, such as -m extended, are passed to pytest."""
    raise typer.Exit(_run_pytest(context.args) if context.args else _run_test_suite())


@app.command()
def check(
    steps: Annotated[
        list[str] | None, typer.Argument(metavar="[STEP]...", help="Only these; all if not given.")
    ] = None,
) -> None:
    """Run the checks of CI: format, lint, types, words, generated-files, lock-files, launcher, message-types, tests."""
    wanted = steps or list(CHECKS)
    if unknown := [name for name in wanted if name not in CHECKS]:
        raise InvalidInput("STEP", f"there is no check {unknown[0]!r}; use one of: {', '.join(CHECKS)}")
    failed = []
    for name in wanted:
        err.rule(name, style="dim")
        if CHECKS[name]():
            failed.append(name)
    for name in wanted:
        out.print(f"[red]FAILED[/] {name}" if name in failed else f"[green]ok[/]     {name}")
    if failed:
        err.print(f"backline: failed: {', '.join(failed)}; see the output above", markup=False)
    raise typer.Exit(1 if failed else 0)


@app.command()
def generate(
    results: Annotated[
        Path | None, typer.Option("--results", help="New results of `bench --json`, for the page of figures.")
    ] = None,
) -> None:
    """Write what is generated: new settings, the pages of DAGs, message types and figures, and the types' snapshot."""
    code, patterns = 0, [pattern for files in GENERATED_FILES.values() for pattern in files]
    patterns.append(str(schema_snapshot.FILE.relative_to(ROOT)))
    before = _read_files(patterns)
    for module in GENERATED_FILES:
        arguments = [str(results)] if results is not None and module == "bench.performance_page" else []
        code |= run_command([sys.executable, "-P", "-m", module, *arguments], _tool_environment(), quiet=True)
    code = code or schema_snapshot.main(("--write",))
    changed = [path for path, content in _read_files(patterns).items() if before.get(path) != content]
    out.print("written: " + (", ".join(str(path.relative_to(ROOT)) for path in changed) or "nothing has changed"))
    raise typer.Exit(code)


def lock_problems(wanted: Path, locked: Path) -> list[str]:
    """Requirements that the lock file lacks or has at another version, and those without a hash."""
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
    """The versions of each library in a lock file; several if they differ by Python version."""
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
            err.print(f"{name}.txt: {problem}; run the command at the top of {name}.in", markup=False)
    return found


def _check_generated_files() -> int:
    """Run each generator, report files that it changes, and restore them."""
    stale = 0
    for module, patterns in GENERATED_FILES.items():
        before = _read_files(patterns)
        code = run_command([sys.executable, "-P", "-m", module], _tool_environment(), quiet=True)
        after = _read_files(patterns)
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        for path in changed:
            if path in before:
                path.write_bytes(before[path])
            else:
                path.unlink()
            err.print(f"{path.relative_to(ROOT)}: stale; run ./backline generate", markup=False)
        stale += len(changed) + code
    return stale


def _read_files(patterns: Sequence[str]) -> dict[Path, bytes]:
    return {path: path.read_bytes() for pattern in patterns for path in ROOT.glob(pattern)}


def _tool_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}


def _run_test_suite() -> int:
    # Three processes on two cores, as the tests that stop and start services mostly wait.
    return _run_pytest(["-n", "3", "--no-loadscope-reorder", "tests"])


def _run_pytest(arguments: Sequence[str]) -> int:
    exit_on_signal()
    current = Stack(print_progress)
    with current.temporary_setup():
        return run_to_end([sys.executable, "-P", "-m", "pytest", *arguments], current.subprocess_environment())


CHECKS: dict[str, Callable[[], int]] = {
    "format": lambda: run_command([sys.executable, "-P", "-m", "ruff", "format", "--check", "."]),
    "lint": lambda: run_command([sys.executable, "-P", "-m", "ruff", "check", "."]),
    "types": lambda: run_command([sys.executable, "-P", "-m", "mypy", *MYPY_FOLDERS]),
    "words": check_wording,
    "generated-files": _check_generated_files,
    "lock-files": _check_locks,
    "launcher": lambda: run_command(["/bin/sh", "-n", str(ROOT / "backline")]),
    "message-types": lambda: schema_snapshot.main(()),
    "tests": _run_test_suite,
}
"""The steps of `check`, in their order."""
