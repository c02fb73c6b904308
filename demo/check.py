"""The parts of a check: its definition, its result, and waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from demo.context import DemoContext

T = TypeVar("T")

TIMEOUT_SECONDS = 90.0
"""How long a check waits for something that takes a second on an idle machine."""
POLL_INTERVAL_SECONDS = 0.1


class CheckFailed(Exception):
    """The result differs from what was expected. The text describes the result, `hint` names where to read more."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a passed check: expected and actual, in a few words; latencies in seconds, if measured."""

    expected: str
    actual: str
    latencies: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the demo.

    `prepare` starts slow work before the first check runs; `run` raises if the check fails. `log_name` is the service
    whose log most likely explains a failure.
    """

    name: str
    run: Callable[[DemoContext], Result]
    prepare: Callable[[DemoContext], None] | None = None
    log_name: str = "scheduler"


def require(condition: object, message: str, hint: str = "") -> None:
    """CheckFailed unless the condition holds."""
    if not condition:
        raise CheckFailed(message, hint)


def wait_until(poll: Callable[[], T | None], description: str, seconds: float = TIMEOUT_SECONDS) -> T:
    """Call `poll` until it returns a true value; CheckFailed after the timeout."""
    deadline = time.monotonic() + seconds
    while True:
        if found := poll():
            return found
        if time.monotonic() > deadline:
            raise CheckFailed(f"timed out after {seconds:.0f} s waiting for {description}")
        time.sleep(POLL_INTERVAL_SECONDS)
