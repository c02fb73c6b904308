"""Attempts declined payments again when the dunning schedule says so; large amounts only with a person's approval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from backline.db.statements import statement
from backline.jobs.batch import BatchResult, with_unsent
from backline.jobs.job import Job
from backline.payments.charges import charge, retry_charge
from backline.payments.events import apply_waiting_events
from backline.payments.repository import transaction
from backline.payments.settings import PaymentSettings
from backline.rendering.formats import money

ORPHANED_AFTER_SECONDS = 900.0
"""An attempt without a result for so long was left by a process that died: no task works longer."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt; of an orphaned one, which was started and has no result, this is all there is to know."""

    id: int
    """The payment's."""
    order_id: int
    order_number: str
    number: int
    """Which attempt, from 1."""


@dataclass(frozen=True, slots=True)
class DueAttempt(Attempt):
    """The next attempt of a declined payment. Money is in minor units."""

    amount_minor: int
    currency: str
    decline_code: str
    approved: bool | None
    """The decision about it, if there is one."""
    approval_pending: bool

    def is_allowed(self, config: PaymentSettings) -> bool:
        """Whether it can be made now: its amount needs no approval, or it was approved."""
        return bool(self.approved) or not config.needs_approval(self.amount_minor, self.currency)


def request_approvals(job: Job[PaymentSettings]) -> list[dict[str, object]]:
    """Request approval of the large payments that are due; returns the requests, one for each payment.

    At most `batch_limit`, and as many as Airflow maps tasks to: the next run requests the others.
    With the parameter `auto_decision` each is decided at once, and nobody is asked.
    """
    requests: list[dict[str, object]] = []
    limit = min(job.settings.batch_limit, job.max_mapped_tasks)
    decision, hours = job.params.optional("auto_decision", str), job.settings.approval_timeout_hours
    for attempt in _due_attempts(job):
        if attempt.is_allowed(job.settings) or attempt.approval_pending:
            continue
        if len(requests) == limit:
            break
        with transaction(job.database):
            values = {"payment_id": attempt.id, "number": attempt.number, "hours": hours}
            is_new = bool(job.rows(statement("payments", "approval_request"), int, values))
        if is_new and decision:
            _record_approval(job, attempt, approved=decision == "approve", decided_by="auto_decision")
        elif is_new:
            question = (
                f"Order **{attempt.order_number}**, {money(attempt.amount_minor, attempt.currency, 'en')}. It was declined "
                f"({attempt.decline_code}); this would be attempt {attempt.number}.\n\nIf rejected, the payment is abandoned."
            )
            requests.append({"attempt": asdict(attempt), "question": question})
    return requests


def retry_failed_payments(job: Job[PaymentSettings]) -> dict[str, object]:
    """Settle the attempts that a dead process left without a result, then make up to `batch_limit` attempts that are due."""
    provider = job.provider()

    def settle(attempt: Attempt) -> tuple[str, ...]:
        apply_waiting_events(job.database, attempt.order_id, job.now)
        outcome = charge(job.database, provider, attempt.order_id)
        return with_unsent(outcome.state, outcome.unsent_messages)

    values = {"provider": provider.name, "orphaned_after_seconds": ORPHANED_AFTER_SECONDS}
    settled = job.run_each(
        job.scan(statement("payments", "attempts_orphaned"), Attempt, values), settle,
        key=lambda attempt: attempt.order_number, limit=job.settings.batch_limit, transactional=False, span=(0, 20),
    )  # fmt: skip
    due = _due_attempts(job)
    allowed = [attempt for attempt in due if attempt.is_allowed(job.settings)]
    retried = _retry_each(job, allowed, span=(20, 100))
    return {"retried": retried, "settled": settled, "awaiting_approval": len(due) - len(allowed)}


def decide(
    job: Job[PaymentSettings], request: Mapping[str, Any], answer: Mapping[str, Any]
) -> BatchResult | dict[str, str]:
    """Act on a person's answer to one of the requests: make the attempt, or abandon the payment."""
    attempt = DueAttempt(**request["attempt"])
    if _record_approval(job, attempt, approved=answer["approved"], decided_by=answer["decided_by"]):
        return _retry_each(job, [replace(attempt, approved=True)])
    return {"abandoned": attempt.order_number}


def _due_attempts(job: Job[PaymentSettings]) -> list[DueAttempt]:
    return list(job.scan(statement("payments", "retry_due"), DueAttempt, {"provider": job.provider().name}))


def _record_approval(job: Job[PaymentSettings], attempt: DueAttempt, *, approved: bool, decided_by: str) -> bool:
    """Record a decision and return the one that counts: the first. A rejected attempt's payment is abandoned."""
    key = {"payment_id": attempt.id, "number": attempt.number}
    with transaction(job.database):
        values = {**key, "approved": approved, "decided_by": decided_by[:200]}
        job.database.execute(statement("payments", "approval_record"), values)
        [is_approved] = job.rows(statement("payments", "approval_get"), bool, key)
        if not is_approved:
            values = {"payment_id": attempt.id, "attempts": attempt.number - 1}
            job.database.execute(statement("payments", "payment_abandon"), values)
        return is_approved


def _retry_each(
    job: Job[PaymentSettings], attempts: Sequence[DueAttempt], span: tuple[float, float] = (0, 100)
) -> BatchResult:
    def retry(attempt: DueAttempt) -> str | tuple[str, ...]:
        apply_waiting_events(job.database, attempt.order_id, job.now)
        outcome = retry_charge(job.database, job.provider(), attempt.order_id, attempt.number)
        return "not_due" if outcome is None else with_unsent(outcome.state, outcome.unsent_messages)

    # Each attempt commits before it calls the provider.
    return job.run_each(
        attempts, retry, key=lambda attempt: attempt.order_number, limit=job.settings.batch_limit, transactional=False,
        span=span,
    )  # fmt: skip
