"""What a check is, and how one waits for what it expects."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from backline.demo.world import World

T = TypeVar("T")

PATIENCE_SECONDS = 90.0
"""How long a check waits for what takes a second on a quiet machine."""
LOOK_SECONDS = 0.1


class CheckFailed(Exception):
    """What was shown is not what was expected. The text says what was, `look` where to read more."""

    def __init__(self, why: str, look: str = "") -> None:
        super().__init__(why)
        self.look = look


@dataclass(frozen=True, slots=True)
class Result:
    """A check that went well: what was expected and what came, in a few words; latencies in seconds, if measured."""

    expected: str
    arrived: str
    latencies: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the demo shows.

    `prepare` starts what takes long, before the first check runs; `run` raises when it is not as it should be.
    `log` is the service in whose log the reason of a failure is most likely found.
    """

    name: str
    run: Callable[[World], Result]
    prepare: Callable[[World], None] | None = None
    log: str = "scheduler"


def require(condition: object, why: str, look: str = "") -> None:
    """CheckFailed unless the condition holds."""
    if not condition:
        raise CheckFailed(why, look)


def until(look: Callable[[], T | None], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """The first answer of `look` that is true; CheckFailed if none came within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            raise CheckFailed(f"{what}: not within {seconds:.0f} s")
        time.sleep(LOOK_SECONDS)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are not above (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]
