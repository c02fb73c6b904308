"""Rules and result of `Job.run_each`, which works on many items of which each may fail alone."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

import psycopg
from pydantic import TypeAdapter
from pydantic_core import to_json

from backline.db.connect import to_storable
from backline.dead_letters.failures import classify, format_cause
from backline.errors import AuthenticationFailed, FailureClass, InvalidInput, Misconfigured, UnknownFailure

MAX_REPORTED_FAILURES = 50
"""How many failures a result names; all are counted."""
MAX_REPORTED_BYTES = 32 * 1024
"""Of the failures that a result names: half of what a result may have."""
MAX_REASON_LENGTH = 500
MAX_KEY_LENGTH = 255
MAX_OUTCOMES = 50
"""How many different words for outcomes a result counts; further ones are counted together."""
OTHER_OUTCOMES = "others"
MAX_OUTCOME_LENGTH = 60
UNSENT_MESSAGES = "unsent_messages"
"""The outcome of an item with messages that could not be enqueued; each has a dead letter."""
MAX_CONSECUTIVE_TRANSIENT = 5
"""After so many transient failures in a row the batch stops: what it depends on is away."""
_TRANSIENT = frozenset({
    FailureClass.TIMEOUT, FailureClass.NETWORK, FailureClass.DATABASE, FailureClass.RATE_LIMITED, FailureClass.RESOURCE,
})  # fmt: skip
_JOB_SQLSTATES = ("28", "3D", "3F", "42")
"""Classes of SQLSTATE that are about the job: access, missing database or schema, syntax, missing tables and privileges."""


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
            self._count_outcome(outcome, count)
        self.skipped += other.skipped
        self.failed += other.failed
        for failure in other.failures:
            self._report(failure)
        self.limit_reached |= other.limit_reached
        self.stopped_early |= other.stopped_early
        return self

    @classmethod
    def from_results(cls, results: Iterable[Mapping[str, object]]) -> Self:
        """The sum of the results of mapped tasks, each as its task returned it (JSON)."""
        total, adapter = cls(), TypeAdapter(cls)
        for result in results:
            total.add(adapter.validate_python(result))
        return total

    def count_success(self, outcome: object) -> None:
        """Count one item that was done, under its outcome, or each of several, if it has one."""
        self.done += 1
        for word in outcome if isinstance(outcome, tuple) else (outcome,):
            if word is not None:
                self._count_outcome(to_storable(str(word))[:MAX_OUTCOME_LENGTH], 1)

    def count_failure(self, key: str, error: Exception) -> None:
        """Count one item that failed, and name it while few have."""
        self.failed += 1
        self._report(ItemFailure(key, classify(error), format_cause(error)[:MAX_REASON_LENGTH]))

    def _count_outcome(self, outcome: str, count: int) -> None:
        if outcome not in self.outcomes and len(self.outcomes) >= MAX_OUTCOMES:
            outcome = OTHER_OUTCOMES
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count

    def _report(self, failure: ItemFailure) -> None:
        size = sum(len(f"{each.key}{each.reason}".encode()) for each in (*self.failures, failure))
        if len(self.failures) < MAX_REPORTED_FAILURES and size <= MAX_REPORTED_BYTES:
            self.failures.append(failure)


def with_unsent(outcome: str, unsent_messages: int) -> tuple[str, ...]:
    """The outcomes of an item of which so many messages could not be enqueued."""
    return (outcome, UNSENT_MESSAGES) if unsent_messages else (outcome,)


def letter_key(key: object) -> str:
    """An item's key as it is stored: a long one is cut, with a digest of the whole. InvalidInput if it is no text."""
    if not isinstance(key, str) or not key:
        raise InvalidInput("key", f"must be text that identifies the item, not {key!r:.100}")
    text = to_storable(key)
    if len(text) <= MAX_KEY_LENGTH:
        return text
    return f"{text[: MAX_KEY_LENGTH - 17]}~{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def item_key(item: object) -> str:
    """What identifies an item within its job: the item itself, or its attribute `id`."""
    return str(item if isinstance(item, str | int) else item.id)  # type: ignore[attr-defined]


def fingerprint(item: object) -> str:
    """A digest of an item's data, so that a changed item is attempted again; of a bare key it never changes."""
    if not dataclasses.is_dataclass(item) or isinstance(item, type):
        return ""
    try:
        data = to_json(item, fallback=str, inf_nan_mode="strings")
    except Exception:  # noqa: BLE001 - a value that JSON cannot hold, such as half a surrogate pair, or itself
        data = repr(item).encode("utf-8", "backslashreplace")
    return hashlib.sha256(data).hexdigest()


def is_transient(error: Exception) -> bool:
    """Whether a later attempt may succeed without anybody's doing."""
    return isinstance(error, UnknownFailure) or classify(error) in _TRANSIENT


def stops_batch(error: Exception) -> bool:
    """Whether a failure is about the job and not about its item: a wrong setting, a missing table, refused credentials."""
    if isinstance(error, AuthenticationFailed):
        return True
    if not isinstance(error, Misconfigured):
        return False
    cause = error.__cause__
    return not isinstance(cause, psycopg.Error) or (cause.sqlstate or "").startswith(_JOB_SQLSTATES)
