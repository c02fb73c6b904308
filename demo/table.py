"""The demo's output: one line per finished check, and a live line for progress."""

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
"""Column widths in characters; a line has at most 120."""


class CheckTable:
    """Prints one line per check; without a terminal there is no live line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = console.status("") if console.is_terminal else None
        self._current_step = ""
        self._prepare_errors: dict[str, Exception] = {}
        heading = _format_line("#", "", "check", "expected", "actual", "p50/p99 ms", "s")
        console.print(Text(heading, style="bold"))
        if self._status is not None:
            self._status.start()

    def show_progress(self, text: str) -> None:
        """Show progress within the current check."""
        if self._status is not None:
            self._status.update(Text(f"{self._current_step}: {text}" if text else self._current_step))

    def prepare(self, check: Check, context: DemoContext) -> None:
        """Run a check's `prepare`; a failure is shown in the check's own line."""
        if check.prepare is None:
            return
        self._current_step = f"preparing “{check.name}”"
        self.show_progress("")
        try:
            check.prepare(context)
        except Exception as exc:  # noqa: BLE001 - it becomes the result of the check
            self._prepare_errors[check.name] = exc

    def run_check(self, number: int, check: Check, context: DemoContext) -> bool:
        """Run one check and print its line; returns whether it passed. Raises only on interruption."""
        self._current_step = f"{number} {check.name}"
        self.show_progress("")
        started = time.monotonic()
        try:
            if error := self._prepare_errors.get(check.name):
                raise error  # noqa: TRY301 - it failed in `prepare`
            result = check.run(context)
        except Exception as exc:  # noqa: BLE001 - the other checks still run
            hint = exc.hint if isinstance(exc, CheckFailed) else ""
            reason = str(exc) if isinstance(exc, CheckFailed | BacklineError) else f"{type(exc).__name__}: {exc}"
            self._print_result(number, check, None, time.monotonic() - started)
            self._print_failure(reason, hint or f"{context.stack.paths.log_folder / check.log_name}.log")
            return False
        self._print_result(number, check, result, time.monotonic() - started)
        return True

    def skip(self, number: int, check: Check) -> bool:
        """Print a line for a check that was not run; returns False."""
        self._print_result(number, check, None, 0.0)
        self._print_failure("not run, because the stack is not healthy", "./backline health")
        return False

    def close(self) -> None:
        """Remove the live line."""
        if self._status is not None:
            self._status.stop()

    def _print_result(self, number: int, check: Check, result: Result | None, seconds: float) -> None:
        expected, actual, latency = "", "", ""
        if result is not None:
            expected, actual = result.expected, result.actual
            if result.latencies:
                p50, p99 = (percentile(result.latencies, fraction) * 1000 for fraction in (0.5, 0.99))
                latency = f"{p50:,.1f} / {p99:,.1f}"
        verdict = "FAILED" if result is None else "ok"
        line = Text(_format_line(str(number), verdict, check.name, expected, actual, latency, f"{seconds:.1f}"))
        line.stylize("bold red" if result is None else "green", 4, 10)
        self._console.print(line)

    def _print_failure(self, reason: str, hint: str) -> None:
        self._console.print(Text(f"           why: {' '.join(reason.split())}\n           see: {hint}", style="red"))


def _format_line(number: str, verdict: str, name: str, expected: str, actual: str, latency: str, seconds: str) -> str:
    return (
        f"{number:>2}  {verdict:<6} {name:<{NAME_WIDTH}} {expected:<{EXPECTED_WIDTH}} {actual:<{ACTUAL_WIDTH}} "
        f"{latency:>{LATENCY_WIDTH}} {seconds:>6}"
    ).rstrip()
