"""What a check is, and how one waits for what it expects."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from demo.context import DemoContext

T = TypeVar("T")

TIMEOUT_SECONDS = 90.0
"""How long a check waits for what takes a second on a quiet machine."""
POLL_INTERVAL_SECONDS = 0.1


class CheckFailed(Exception):
    """What was shown is not what was expected. The text says what was, `look` where to read more."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Result:
    """A check that went well: what was expected and what came, in a few words; latencies in seconds, if measured."""

    expected: str
    actual: str
    latencies: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the demo shows.

    `prepare` starts what takes long, before the first check runs; `run` raises when it is not as it should be.
    `log` is the service in whose log the reason of a failure is most likely found.
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
    """The first answer of `look` that is true; CheckFailed if none came within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        if found := poll():
            return found
        if time.monotonic() > deadline:
            raise CheckFailed(f"{description}: not within {seconds:.0f} s")
        time.sleep(POLL_INTERVAL_SECONDS)
