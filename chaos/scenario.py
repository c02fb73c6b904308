"""What a scenario is, and what it says about its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may happen at most: mails that come twice, and the recipients that end dead because their server says so."""

    in_flight: int
    refused: frozenset[str] = frozenset()


def _unchanged(_project: Path) -> None:
    return


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault. `run` breaks things under load and returns once the dust has settled; the counting is not its task."""

    name: str
    about: str
    """In one line: what breaks."""
    run: Callable[[Any], Bounds]
    """It is given a StackArena, or a CeleryArena."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Settings that stand over the shipped ones."""
    fork: Callable[[Path], None] = _unchanged
    """A change to the copied project."""
    on_celery: bool = False
    """Not on the embedded stack, but on the containers' processes."""
