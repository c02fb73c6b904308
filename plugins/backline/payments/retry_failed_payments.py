"""Attempts declined payments again when the dunning schedule says so; large amounts only with a person's approval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from backline.jobs.batch import BatchResult
from backline.jobs.job import Job
from backline.payments.charges import charge, retry_charge
from backline.payments.dunning import (
    DueAttempt,
    OrphanedAttempt,
    due_attempts,
    is_allowed,
    orphaned_attempts,
    record_approval,
    request_approval,
)
from backline.payments.settings import PaymentSettings
from backline.rendering.formats import money


def request_approvals(job: Job[PaymentSettings]) -> list[dict[str, object]]:
    """Request approval of the large payments that are due; returns the requests, one for each payment.

    With the parameter `auto_decision` each is decided at once, and nobody is asked.
    """
    requests: list[dict[str, object]] = []
    decision = job.params.optional("auto_decision", str)
    for attempt in due_attempts(job, job.provider().name):
        if is_allowed(attempt, job.settings) or attempt.approval_pending:
            continue
        if len(requests) == job.settings.batch_limit:
            break
        if not request_approval(job.database, attempt, job.settings):
            continue
        if decision:
            approved = decision == "approve"
            record_approval(job.database, attempt.id, attempt.number, approved=approved, decided_by="auto_decision")
        else:
            question = (
                f"Order **{attempt.order_number}**, {money(attempt.amount_minor, attempt.currency, 'en')}. It was declined "
                f"({attempt.decline_code}); this would be attempt {attempt.number}.\n\nIf rejected, the payment is abandoned."
            )
            requests.append({"attempt": asdict(attempt), "question": question})
    return requests


def retry_failed_payments(job: Job[PaymentSettings]) -> dict[str, object]:
    """Settle the attempts that a dead process left without a result, then make up to `batch_limit` attempts that are due."""
    provider, limit = job.provider(), job.settings.batch_limit

    def settle(attempt: OrphanedAttempt) -> str:
        return charge(job.database, provider, attempt.order_id).state

    settled = job.run_each(
        orphaned_attempts(job, provider.name), settle, key=lambda attempt: attempt.order_number, limit=limit,
        transactional=False, span=(0, 20),
    )  # fmt: skip
    due = list(due_attempts(job, provider.name))
    allowed = [attempt for attempt in due if is_allowed(attempt, job.settings)]
    retried = _retry_each(job, allowed, span=(20, 100))
    return {"retried": retried, "settled": settled, "awaiting_approval": len(due) - len(allowed)}


def decide(job: Job[PaymentSettings], request: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, object]:
    """Act on a person's answer to one of the requests: make the attempt, or abandon the payment."""
    attempt = DueAttempt(**request["attempt"])
    approved = record_approval(
        job.database, attempt.id, attempt.number, approved=answer["approved"], decided_by=answer["decided_by"]
    )
    if not approved:
        return {"abandoned": attempt.order_number}
    return asdict(_retry_each(job, [replace(attempt, approved=True)]))


def _retry_each(
    job: Job[PaymentSettings], attempts: Iterable[DueAttempt], span: tuple[float, float] = (0, 100)
) -> BatchResult:
    def retry(attempt: DueAttempt) -> str:
        outcome = retry_charge(job.database, job.provider(), attempt.order_id, attempt.number)
        return "not_due" if outcome is None else outcome.state

    # Each attempt commits before it calls the provider.
    return job.run_each(
        attempts, retry, key=lambda attempt: attempt.order_number, limit=job.settings.batch_limit, transactional=False,
        span=span,
    )  # fmt: skip
