"""Trying declined payments again, as the dunning schedule says; large ones only when a person allows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from backline.errors import BacklineError, PermanentError, UnknownFailure
from backline.payments.charging import charge, retry
from backline.payments.provider import Provider
from backline.payments.records import transaction
from backline.payments.settings import PaymentSettings
from backline.rendering.formats import money

DIED_SECONDS = 900.0
"""A try that has had no end for so long was left by a process that died: no task of ours works longer."""
NAMED = 20


@dataclass(frozen=True, slots=True)
class Due:
    """A try that is to be made: the payment's `number`-th. Money is in minor units."""

    payment_id: int
    order_id: int
    number: int
    order_number: str
    amount_minor: int
    currency: str
    decline_code: str


@dataclass
class Dunning:
    """What is to be done: tries to make now, tries to ask about, tries that somebody is being asked about."""

    due: list[Due] = field(default_factory=list)
    to_ask: list[Due] = field(default_factory=list)
    asked: int = 0


@dataclass
class Retried:
    """What became of the tries, and which went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For the run's result."""
        return {**self.counts, "problems": self.problems[:NAMED]}


def plan(database: psycopg.Connection[Any], provider: str, config: PaymentSettings) -> Dunning:
    """The payments whose time has come; people are asked about a large one once, until their time to answer is over."""
    found = Dunning()
    with transaction(database) as run:
        for row in run("retry_due", provider=provider, most=config.retries_at_once):
            due = Due(**{name: row[name] for name in Due.__dataclass_fields__})
            if not config.needs_approval(due.amount_minor, due.currency):
                found.due.append(due)
                continue
            answers = run("approval_get", payment_id=due.payment_id, number=due.number)
            asking = {"payment_id": due.payment_id, "number": due.number, "hours": config.approval_hours}
            if answers and answers[0]["approved"]:
                found.due.append(due)  # allowed, and not tried yet: the run that asked has died
            elif not answers and run("approval_ask", **asking):
                found.to_ask.append(due)
            else:
                found.asked += 1
    return found


def answer(database: psycopg.Connection[Any], payment_id: int, number: int, *, approved: bool, who: str) -> None:
    """Write down whether a person allows a try; the first answer holds. One that is not allowed is never made: the payment is given up."""
    with transaction(database) as run:
        run("approval_answer", payment_id=payment_id, number=number, approved=approved, who=who[:200])
        [row] = run("approval_get", payment_id=payment_id, number=number)
        if not row["approved"]:
            run("payment_give_up", payment_id=payment_id, tries=number - 1)


def retry_all(database: psycopg.Connection[Any], provider: Provider, due: Iterable[tuple[int, int]]) -> Retried:
    """Make tries, given by order and number; each harms only itself. UnknownFailure at the end if one may go well later."""
    report = Retried()
    may_go_well = 0
    for order_id, number in due:
        try:
            outcome = retry(database, provider, order_id, number)
        except BacklineError as exc:
            may_go_well += not isinstance(exc, PermanentError)
            report.counts["failed"] += 1
            report.problems.append(f"order {order_id}: {exc}"[:300])
        else:
            report.counts["nothing to do" if outcome is None else outcome.state] += 1
    if may_go_well:
        raise UnknownFailure(f"{may_go_well} payments could not be tried again: {'; '.join(report.problems[:3])}")
    return report


def recover(database: psycopg.Connection[Any], provider: Provider, most: int) -> Retried:
    """Find out how tries ended that were left without an end, up to `most` of them."""
    report = Retried()
    with transaction(database) as run:
        orders = [row["order_id"] for row in run("try_open", provider=provider.name, seconds=DIED_SECONDS, most=most)]
    for order_id in orders:
        try:
            report.counts[charge(database, provider, order_id).state] += 1
        except BacklineError as exc:
            report.counts["failed"] += 1
            report.problems.append(f"order {order_id}: {exc}"[:300])
    return report


def as_request(due: Due) -> dict[str, Any]:
    """A try as the run that asks about it hands it on."""
    return {**asdict(due), "amount": money(due.amount_minor, due.currency, "en")}
