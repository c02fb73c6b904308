"""The demo's table: one line a check as it ends, and a live line for what goes on."""

from __future__ import annotations

import time

from rich.console import Console
from rich.status import Status
from rich.text import Text

from backline.demo.check import Check, CheckFailed, Result, percentile
from backline.demo.world import World
from backline.errors import BacklineError

NAME, EXPECTED, ARRIVED, LATENCY = 38, 20, 26, 13
"""Widths of columns, in characters: a line has at most 120."""


class Table:
    """Shows checks line by line; without a terminal the same lines, and no live one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Status | None = console.status("") if console.is_terminal else None
        self._doing = ""
        self._unprepared: dict[str, Exception] = {}
        heading = _line("#", "", "check", "expected", "arrived", "p50/p99 ms", "s")
        console.print(Text(heading, style="bold"))
        if self._live is not None:
            self._live.start()

    def say(self, what: str) -> None:
        """Show what goes on inside the present check."""
        if self._live is not None:
            self._live.update(Text(f"{self._doing}: {what}" if what else self._doing))

    def prepare(self, check: Check, world: World) -> None:
        """Start what a check wants started early; a failure is shown in the check's own line."""
        if check.prepare is None:
            return
        self._doing = f"preparing “{check.name}”"
        self.say("")
        try:
            check.prepare(world)
        except Exception as exc:  # noqa: BLE001 - it becomes the check's result
            self._unprepared[check.name] = exc

    def show(self, number: int, check: Check, world: World) -> bool:
        """Run one check and print its line; returns whether it passed. Only an interruption passes through."""
        self._doing = f"{number} {check.name}"
        self.say("")
        began = time.monotonic()
        try:
            if early := self._unprepared.get(check.name):
                raise early  # noqa: TRY301 - it failed in `prepare`
            result = check.run(world)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the other checks still run
            look = exc.look if isinstance(exc, CheckFailed) else ""
            why = str(exc) if isinstance(exc, CheckFailed | BacklineError) else f"{type(exc).__name__}: {exc}"
            self._print(number, check, None, time.monotonic() - began)
            self._explain(why, look or f"{world.stack.paths.logs / check.log}.log")
            return False
        self._print(number, check, result, time.monotonic() - began)
        return True

    def skip(self, number: int, check: Check) -> bool:
        """A line for a check that was not run; returns False, for it did not pass."""
        self._print(number, check, None, 0.0)
        self._explain("not run, because the stack is not healthy", "./backline health")
        return False

    def close(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()

    def _print(self, number: int, check: Check, result: Result | None, seconds: float) -> None:
        expected, arrived, latency = "", "", ""
        if result is not None:
            expected, arrived = result.expected, result.arrived
            if result.latencies:
                p50, p99 = (percentile(result.latencies, share) * 1000 for share in (0.5, 0.99))
                latency = f"{p50:,.1f} / {p99:,.1f}"
        verdict = "FAILED" if result is None else "ok"
        line = Text(_line(str(number), verdict, check.name, expected, arrived, latency, f"{seconds:.1f}"))
        line.stylize("bold red" if result is None else "green", 4, 10)
        self._console.print(line)

    def _explain(self, why: str, look: str) -> None:
        self._console.print(Text(f"           why: {' '.join(why.split())}\n           see: {look}", style="red"))


def _line(number: str, verdict: str, name: str, expected: str, arrived: str, latency: str, seconds: str) -> str:
    return (
        f"{number:>2}  {verdict:<6} {name:<{NAME}} {expected:<{EXPECTED}} {arrived:<{ARRIVED}} "
        f"{latency:>{LATENCY}} {seconds:>6}"
    ).rstrip()
