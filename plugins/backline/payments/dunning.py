"""Which payments are due for another attempt, and which of these a person must approve first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg.rows import DictRow

from backline.db.statements import statement
from backline.jobs.job import Job
from backline.payments.repository import transaction
from backline.payments.settings import PaymentSettings

ORPHANED_AFTER_SECONDS = 900.0
"""An attempt without a result for so long was left by a process that died: no task works longer."""


@dataclass(frozen=True, slots=True)
class DueAttempt:
    """The next attempt of a declined payment. Money is in minor units."""

    id: int
    """The payment's."""
    order_id: int
    order_number: str
    number: int
    """Which attempt, from 1."""
    amount_minor: int
    currency: str
    decline_code: str
    approved: bool | None
    """The decision about it, if there is one."""
    approval_pending: bool


@dataclass(frozen=True, slots=True)
class OrphanedAttempt:
    """An attempt that was started and has no result."""

    id: int
    """The payment's."""
    order_id: int
    order_number: str
    number: int


def due_attempts(job: Job[PaymentSettings], provider: str) -> Iterator[DueAttempt]:
    """The attempts that are due at a provider, by payment."""
    return job.scan(statement("payments", "retry_due"), DueAttempt, {"provider": provider})


def orphaned_attempts(job: Job[PaymentSettings], provider: str) -> Iterator[OrphanedAttempt]:
    """The attempts at a provider that were left without a result, by payment."""
    values = {"provider": provider, "orphaned_after_seconds": ORPHANED_AFTER_SECONDS}
    return job.scan(statement("payments", "attempts_orphaned"), OrphanedAttempt, values)


def is_allowed(attempt: DueAttempt, config: PaymentSettings) -> bool:
    """Whether an attempt can be made now: its amount needs no approval, or it was approved."""
    return bool(attempt.approved) or not config.needs_approval(attempt.amount_minor, attempt.currency)


def request_approval(database: psycopg.Connection[DictRow], attempt: DueAttempt, config: PaymentSettings) -> bool:
    """Record that a decision is requested; False if it was requested already and has not expired."""
    with transaction(database) as run:
        return bool(run(
            "approval_request", payment_id=attempt.id, number=attempt.number, hours=config.approval_timeout_hours
        ))  # fmt: skip


def record_approval(
    database: psycopg.Connection[DictRow], payment_id: int, number: int, *, approved: bool, decided_by: str
) -> bool:
    """Record a decision about an attempt and return the one that counts: the first. A rejected attempt's payment is abandoned."""
    with transaction(database) as run:
        run("approval_record", payment_id=payment_id, number=number, approved=approved, decided_by=decided_by[:200])
        [decision] = run("approval_get", payment_id=payment_id, number=number)
        if not decision["approved"]:
            run("payment_abandon", payment_id=payment_id, attempts=number - 1)
        return bool(decision["approved"])
