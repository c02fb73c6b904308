"""The demo's table: one line a check as it ends, and a live line for what goes on."""

from __future__ import annotations

import time

from rich.console import Console
from rich.status import Status
from rich.text import Text

from backline.errors import BacklineError
from demo.check import Check, CheckFailed, Result
from demo.context import DemoContext
from testkit.percentile import percentile

NAME_WIDTH, EXPECTED_WIDTH, ACTUAL_WIDTH, LATENCY_WIDTH = 38, 20, 26, 13
"""Widths of columns, in characters: a line has at most 120."""


class CheckTable:
    """Shows checks line by line; without a terminal the same lines, and no live one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = console.status("") if console.is_terminal else None
        self._current_step = ""
        self._prepare_errors: dict[str, Exception] = {}
        heading = _format_line("#", "", "check", "expected", "arrived", "p50/p99 ms", "s")
        console.print(Text(heading, style="bold"))
        if self._status is not None:
            self._status.start()

    def show_progress(self, what: str) -> None:
        """Show what goes on inside the present check."""
        if self._status is not None:
            self._status.update(Text(f"{self._current_step}: {what}" if what else self._current_step))

    def prepare(self, check: Check, world: DemoContext) -> None:
        """Start what a check wants started early; a failure is shown in the check's own line."""
        if check.prepare is None:
            return
        self._current_step = f"preparing “{check.name}”"
        self.show_progress("")
        try:
            check.prepare(world)
        except Exception as exc:  # noqa: BLE001 - it becomes the check's result
            self._prepare_errors[check.name] = exc

    def run_check(self, number: int, check: Check, world: DemoContext) -> bool:
        """Run one check and print its line; returns whether it passed. Only an interruption passes through."""
        self._current_step = f"{number} {check.name}"
        self.show_progress("")
        began = time.monotonic()
        try:
            if early := self._prepare_errors.get(check.name):
                raise early  # noqa: TRY301 - it failed in `prepare`
            result = check.run(world)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the other checks still run
            look = exc.hint if isinstance(exc, CheckFailed) else ""
            why = str(exc) if isinstance(exc, CheckFailed | BacklineError) else f"{type(exc).__name__}: {exc}"
            self._print_result(number, check, None, time.monotonic() - began)
            self._print_failure(why, look or f"{world.stack.paths.log_folder / check.log_name}.log")
            return False
        self._print_result(number, check, result, time.monotonic() - began)
        return True

    def skip(self, number: int, check: Check) -> bool:
        """A line for a check that was not run; returns False, for it did not pass."""
        self._print_result(number, check, None, 0.0)
        self._print_failure("not run, because the stack is not healthy", "./backline health")
        return False

    def close(self) -> None:
        """Take the live line away."""
        if self._status is not None:
            self._status.stop()

    def _print_result(self, number: int, check: Check, result: Result | None, seconds: float) -> None:
        expected, arrived, latency = "", "", ""
        if result is not None:
            expected, arrived = result.expected, result.actual
            if result.latencies:
                p50, p99 = (percentile(result.latencies, share) * 1000 for share in (0.5, 0.99))
                latency = f"{p50:,.1f} / {p99:,.1f}"
        verdict = "FAILED" if result is None else "ok"
        line = Text(_format_line(str(number), verdict, check.name, expected, arrived, latency, f"{seconds:.1f}"))
        line.stylize("bold red" if result is None else "green", 4, 10)
        self._console.print(line)

    def _print_failure(self, why: str, look: str) -> None:
        self._console.print(Text(f"           why: {' '.join(why.split())}\n           see: {look}", style="red"))


def _format_line(number: str, verdict: str, name: str, expected: str, arrived: str, latency: str, seconds: str) -> str:
    return (
        f"{number:>2}  {verdict:<6} {name:<{NAME_WIDTH}} {expected:<{EXPECTED_WIDTH}} {arrived:<{ACTUAL_WIDTH}} "
        f"{latency:>{LATENCY_WIDTH}} {seconds:>6}"
    ).rstrip()
