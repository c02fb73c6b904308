"""Waiting for a condition, with an end to it."""

from __future__ import annotations

import time
from collections.abc import Callable

from backline.errors import UnknownFailure


def wait_for(
    condition: Callable[[], object], description: str, timeout_seconds: float, *, poll_interval_seconds: float = 0.02
) -> None:
    """Return once the condition holds; UnknownFailure after so many seconds."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise UnknownFailure(f"waited {timeout_seconds:.0f} s in vain for {description}")
        time.sleep(poll_interval_seconds)
