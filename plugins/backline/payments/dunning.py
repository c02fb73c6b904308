"""Trying declined payments again, as the dunning schedule says; large ones only when a person allows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from backline.errors import BacklineError, PermanentError, UnknownFailure
from backline.payments.charges import charge, retry_charge
from backline.payments.provider import Provider
from backline.payments.repository import transaction
from backline.payments.settings import PaymentSettings
from backline.rendering.formats import money

ORPHANED_AFTER_SECONDS = 900.0
"""A try that has had no end for so long was left by a process that died: no task of ours works longer."""
MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class DueAttempt:
    """A try that is to be made: the payment's `number`-th. Money is in minor units."""

    payment_id: int
    order_id: int
    number: int
    order_number: str
    amount_minor: int
    currency: str
    decline_code: str


@dataclass
class DunningPlan:
    """What is to be done: tries to make now, tries to ask about, tries that somebody is being asked about."""

    due: list[DueAttempt] = field(default_factory=list)
    to_approve: list[DueAttempt] = field(default_factory=list)
    awaiting_approval: int = 0


@dataclass
class RetryReport:
    """What became of the tries, and which went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For the run's result."""
        return {**self.counts, "problems": self.problems[:MAX_LISTED]}


def plan_retries(database: psycopg.Connection[Any], provider: str, config: PaymentSettings) -> DunningPlan:
    """The payments whose time has come; people are asked about a large one once, until their time to answer is over."""
    found = DunningPlan()
    with transaction(database) as run:
        for row in run("retry_due", provider=provider, batch_limit=config.batch_limit):
            due = DueAttempt(**{name: row[name] for name in DueAttempt.__dataclass_fields__})
            if not config.needs_approval(due.amount_minor, due.currency):
                found.due.append(due)
                continue
            answers = run("approval_get", payment_id=due.payment_id, number=due.number)
            asking = {"payment_id": due.payment_id, "number": due.number, "hours": config.approval_timeout_hours}
            if answers and answers[0]["approved"]:
                found.due.append(due)  # allowed, and not tried yet: the run that asked has died
            elif not answers and run("approval_request", **asking):
                found.to_approve.append(due)
            else:
                found.awaiting_approval += 1
    return found


def record_approval(
    database: psycopg.Connection[Any], payment_id: int, number: int, *, approved: bool, decided_by: str
) -> None:
    """Write down whether a person allows a try; the first answer holds. One that is not allowed is never made: the payment is given up."""
    with transaction(database) as run:
        run("approval_record", payment_id=payment_id, number=number, approved=approved, decided_by=decided_by[:200])
        [row] = run("approval_get", payment_id=payment_id, number=number)
        if not row["approved"]:
            run("payment_abandon", payment_id=payment_id, attempts=number - 1)


def retry_due(database: psycopg.Connection[Any], provider: Provider, due: Iterable[tuple[int, int]]) -> RetryReport:
    """Make tries, given by order and number; each harms only itself. UnknownFailure at the end if one may go well later."""
    report = RetryReport()
    may_go_well = 0
    for order_id, number in due:
        try:
            outcome = retry_charge(database, provider, order_id, number)
        except BacklineError as exc:
            may_go_well += not isinstance(exc, PermanentError)
            report.counts["failed"] += 1
            report.problems.append(f"order {order_id}: {exc}"[:300])
        else:
            report.counts["nothing to do" if outcome is None else outcome.state] += 1
    if may_go_well:
        raise UnknownFailure(f"{may_go_well} payments could not be tried again: {'; '.join(report.problems[:3])}")
    return report


def settle_orphaned_attempts(database: psycopg.Connection[Any], provider: Provider, limit: int) -> RetryReport:
    """Find out how tries ended that were left without an end, up to `most` of them."""
    report = RetryReport()
    with transaction(database) as run:
        orders = [
            row["order_id"]
            for row in run(
                "attempts_orphaned",
                provider=provider.name,
                orphaned_after_seconds=ORPHANED_AFTER_SECONDS,
                batch_limit=limit,
            )
        ]
    for order_id in orders:
        try:
            report.counts[charge(database, provider, order_id).state] += 1
        except BacklineError as exc:
            report.counts["failed"] += 1
            report.problems.append(f"order {order_id}: {exc}"[:300])
    return report


def approval_request(due: DueAttempt) -> dict[str, Any]:
    """A try as the run that asks about it hands it on."""
    return {**asdict(due), "amount": money(due.amount_minor, due.currency, "en")}
