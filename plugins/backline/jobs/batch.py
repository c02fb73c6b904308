"""Work on many items of which each may fail alone: `Job.run_each`, and the result that it returns."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
from pydantic_core import to_json

from backline.db.connect import translate_error
from backline.dead_letters.failures import classify, format_cause
from backline.errors import AuthenticationFailed, FailureClass, Misconfigured, UnknownFailure

if TYPE_CHECKING:
    from backline.jobs.job import Job

T = TypeVar("T")
log = logging.getLogger(__name__)

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
        total = cls()
        for result in results:
            failures = [
                ItemFailure(each["key"], FailureClass(each["failure_class"]), each["reason"])
                for each in result["failures"]
            ]
            total.add(cls(**{**result, "failures": failures}))
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


def run_batch(
    job: Job[object],
    items: Iterable[T],
    function: Callable[[T], object],
    *,
    key: Callable[[T], str] = item_key,
    limit: int | None = None,
    transactional: bool = True,
    span: tuple[float, float] = (0.0, 100.0),
) -> BatchResult:
    """See `Job.run_each`."""
    result = BatchResult()
    open_letters = job.dead_letters.open_items()
    total = min(len(items), limit or len(items)) if isinstance(items, Sized) else limit
    transient: list[tuple[T, Exception]] = []
    in_a_row = 0

    def attempt(item: T) -> Exception | None:
        name = key(item)[:MAX_KEY_LENGTH]
        try:
            with job.database.transaction() if transactional else nullcontext():
                outcome = function(item)
        except Exception as exc:
            error = translate_error(exc) if isinstance(exc, psycopg.Error) else exc
            if error is not exc:
                error.__cause__ = exc
            if job.database.closed or stops_batch(error):
                raise error from exc
            log.warning("%s: item %s: %s", job.name, name, format_cause(error))
            if is_transient(error):
                return error
            result.count_failure(name, error)
            job.dead_letters.record_item(name, fingerprint(item), error)
        else:
            result.count_success(outcome)
            if name in open_letters:
                job.dead_letters.resolve_item(name)
        return None

    attempted = 0
    for item in items:
        name = key(item)[:MAX_KEY_LENGTH]
        if open_letters.get(name) == fingerprint(item):
            result.skipped += 1
            continue
        if attempted == limit:
            result.limit_reached = True
            break
        if total:
            job.progress(span[0] + (span[1] - span[0]) * min(1.0, attempted / total), name)
        attempted += 1
        error = attempt(item)
        in_a_row = in_a_row + 1 if error is not None else 0
        if error is not None:
            transient.append((item, error))
            if in_a_row == MAX_CONSECUTIVE_TRANSIENT:
                result.stopped_early = True
                break
    for item, first in transient:  # once more: a lock that was held or a deadlock has passed by now
        error = first if result.stopped_early else attempt(item)
        if error is not None:
            result.count_failure(key(item), error)
            job.fail_at_end(error)
    return result
