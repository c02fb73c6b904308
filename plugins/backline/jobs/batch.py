"""Rules and result of `Job.run_each`, which works on many items of which each may fail alone."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import TypeAdapter
from pydantic_core import to_json

from backline.dead_letters.failures import classify, format_cause
from backline.errors import AuthenticationFailed, FailureClass, Misconfigured, UnknownFailure

MAX_REPORTED_FAILURES = 50
"""How many failures a result names; all are counted."""
MAX_REASON_LENGTH = 500
MAX_KEY_LENGTH = 255
MAX_CONSECUTIVE_TRANSIENT = 5
"""After so many transient failures in a row the batch stops: what it depends on is away."""
_TRANSIENT = frozenset({
    FailureClass.TIMEOUT, FailureClass.NETWORK, FailureClass.DATABASE, FailureClass.RATE_LIMITED, FailureClass.RESOURCE,
})  # fmt: skip
_BAD_DATA_SQLSTATES = ("22", "23")
"""Classes of SQLSTATE that are about a row's own values: data exception, integrity constraint violation."""


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """One item that failed."""

    key: str
    failure_class: FailureClass
    reason: str


@dataclass(slots=True)
class BatchResult:
    """What became of the items of a batch."""

    done: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    """How many ended how, where the function returns a word for it."""
    skipped: int = 0
    """Left out, because they have an open dead letter and have not changed since."""
    failed: int = 0
    failures: list[ItemFailure] = field(default_factory=list)
    """The first `MAX_REPORTED_FAILURES`."""
    limit_reached: bool = False
    """More items may be left than the limit allowed."""
    stopped_early: bool = False
    """Stopped after `MAX_CONSECUTIVE_TRANSIENT` transient failures in a row."""

    def add(self, other: BatchResult) -> Self:
        """Add the counts of another batch; returns itself."""
        self.done += other.done
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count
        self.skipped += other.skipped
        self.failed += other.failed
        self.failures += other.failures[: MAX_REPORTED_FAILURES - len(self.failures)]
        self.limit_reached |= other.limit_reached
        self.stopped_early |= other.stopped_early
        return self

    @classmethod
    def from_results(cls, results: Iterable[Mapping[str, Any]]) -> Self:
        """The sum of the results of mapped tasks, each as its task returned it (JSON)."""
        total, adapter = cls(), TypeAdapter(cls)
        for result in results:
            total.add(adapter.validate_python(result))
        return total

    def count_success(self, outcome: object) -> None:
        """Count one item that was done, under its outcome if it has one."""
        self.done += 1
        if outcome is not None:
            self.outcomes[str(outcome)] = self.outcomes.get(str(outcome), 0) + 1

    def count_failure(self, key: str, error: Exception) -> None:
        """Count one item that failed, and name it while few have."""
        self.failed += 1
        if len(self.failures) < MAX_REPORTED_FAILURES:
            self.failures.append(ItemFailure(key, classify(error), format_cause(error)[:MAX_REASON_LENGTH]))


def item_key(item: object) -> str:
    """What identifies an item within its job: the item itself, or its attribute `id`."""
    return str(item if isinstance(item, str | int) else item.id)  # type: ignore[attr-defined]


def fingerprint(item: object) -> str:
    """A digest of an item's data, so that a changed item is attempted again; of a bare key it never changes."""
    if not dataclasses.is_dataclass(item) or isinstance(item, type):
        return ""
    return hashlib.sha256(to_json(item, fallback=str, inf_nan_mode="strings")).hexdigest()


def is_transient(error: Exception) -> bool:
    """Whether a later attempt may succeed without anybody's doing."""
    return isinstance(error, UnknownFailure) or classify(error) in _TRANSIENT


def stops_batch(error: Exception) -> bool:
    """Whether a failure is about the job and not about its item: a wrong setting, refused credentials."""
    if isinstance(error, AuthenticationFailed):
        return True
    sqlstate = getattr(error.__cause__, "sqlstate", None) or ""
    return isinstance(error, Misconfigured) and not sqlstate.startswith(_BAD_DATA_SQLSTATES)
