"""Many subscriptions, each for itself: a failure harms only its own, and what became of all is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from backline.db.connect import Session, translate_errors
from backline.db.statements import statement
from backline.dead_letters.failures import classify, format_cause
from backline.errors import Rejected, RetryableError
from backline.subscriptions.renewal import renew
from backline.subscriptions.settings import SubscriptionSettings

MAX_LISTED = 20
"""How many failures a tally names; the others are counted."""
_MAX_ID = 2**63 - 1


@dataclass(slots=True)
class BatchResult:
    """What became of many subscriptions."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    """The first `SHOWN`: subscription, class and cause."""

    @property
    def total(self) -> int:
        """All that were looked at."""
        return self.outcomes.total() + self.failed

    def add_failure(self, subscription_id: int, error: Exception) -> None:
        """Count one that failed, and name it if few have so far."""
        self.failed += 1
        if len(self.failures) < MAX_LISTED:
            named = {"subscription": subscription_id, "class": str(classify(error)), "cause": format_cause(error)[:500]}
            self.failures.append(named)

    def as_dict(self) -> dict[str, Any]:
        """For XCom and people."""
        return {
            "seen": self.total,
            **{str(name): count for name, count in sorted(self.outcomes.items())},
            "failed": self.failed,
            "failures": self.failures,
        }

    @classmethod
    def sum_of(cls, reports: Iterable[Mapping[str, Any]]) -> Self:
        """The sum of several, each as its `as_dict`."""
        total = cls()
        for report in reports:
            total.failed += report["failed"]
            total.failures += report["failures"][: MAX_LISTED - len(total.failures)]
            total.outcomes.update({
                name: count for name, count in report.items() if name not in {"seen", "failed", "failures"}
            })  # fmt: skip
        return total

    def raise_if_failed(self, what: str) -> None:
        """Rejected, naming the first, if some have failed: so that they are a dead letter, and somebody is told."""
        if self.failed:
            first = self.failures[0]
            raise Rejected(
                f"{self.failed} of {self.total} subscriptions were not {what}, the others were; the first is "
                f"{first['subscription']} ({first['class']}): {first['cause']}. Mend them and run it again: it does only what is left"
            )


def due_chunks(connection: Session, now: datetime, config: SubscriptionSettings) -> list[dict[str, int]]:
    """What is due at that moment, as ranges of ids, `first` to `last`, of `config.chunk` due ones each.

    At most `config.chunks` of them; what is over that is due tomorrow still.
    """
    ids = _due_ids(connection, now, 1, _MAX_ID, config.chunk_size * config.max_chunks)
    starts = range(0, len(ids), config.chunk_size)
    return [{"first": ids[start], "last": ids[min(start + config.chunk_size, len(ids)) - 1]} for start in starts]


def renew_chunk(connection: Session, first: int, last: int, now: datetime, config: SubscriptionSettings) -> BatchResult:
    """Renew what is due of one range. DatabaseFailure if the database goes away meanwhile; what is done stays done."""
    ids = _due_ids(connection, now, first, last, config.chunk_size)
    return run_each(connection, ids, lambda one: renew(connection, one, now, config).outcome)


def run_each(connection: Session, ids: Sequence[int], function: Callable[[int], str]) -> BatchResult:
    """Do it for each; those that may go well later (locked by somebody, a deadlock) once more at the end."""
    tally = BatchResult()
    again: list[int] = []
    for is_last, batch in ((False, ids), (True, again)):
        for subscription_id in batch:
            try:
                tally.outcomes[function(subscription_id)] += 1
            except Exception as error:  # whatever is wrong with one, the others are served
                if connection.closed:
                    raise
                if isinstance(error, RetryableError) and not is_last:
                    again.append(subscription_id)
                else:
                    tally.add_failure(subscription_id, error)
    return tally


def _due_ids(connection: Session, now: datetime, first: int, last: int, limit: int) -> list[int]:
    values = {"now": now, "first": first, "last": last, "batch_limit": limit}
    with translate_errors():
        rows = connection.execute(statement("subscriptions", "subscriptions_due"), values).fetchall()
    return [row["id"] for row in rows]
