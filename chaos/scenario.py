"""The definition of a scenario, and the tolerances of its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Tolerances:
    """What is allowed: how many duplicate emails, and the recipients that end dead because the server rejects them."""

    max_duplicates: int
    expected_dead: frozenset[str] = frozenset()
    delivered_elsewhere: int = 0
    """Messages of other channels, which the scenario itself has compared."""
    problems: tuple[str, ...] = ()
    """What the scenario itself has found."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """Further numbers for its last line."""


def _no_change(_project: Path) -> None:
    return


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault. `run` injects it under load and returns when all messages are final; it does not count them."""

    name: str
    description: str
    """The fault, in one line."""
    run: Callable[[Any], Tolerances]
    """Called with a StackEnvironment or a CeleryEnvironment."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings that override the shipped ones."""
    customize: Callable[[Path], None] = _no_change
    """A change to the copied project."""
    on_celery: bool = False
    """Runs on the containers' processes instead of the embedded stack."""
