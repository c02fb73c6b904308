"""What a scenario is, and what it says about its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Tolerances:
    """What may happen at most: mails that come twice, and the recipients that end dead because their server says so."""

    max_duplicates: int
    expected_dead: frozenset[str] = frozenset()


def _no_change(_project: Path) -> None:
    return


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault. `run` breaks things under load and returns once the dust has settled; the counting is not its task."""

    name: str
    description: str
    """In one line: what breaks."""
    run: Callable[[Any], Tolerances]
    """It is given a StackArena, or a CeleryArena."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings that stand over the shipped ones."""
    customize: Callable[[Path], None] = _no_change
    """A change to the copied project."""
    on_celery: bool = False
    """Not on the embedded stack, but on the containers' processes."""
