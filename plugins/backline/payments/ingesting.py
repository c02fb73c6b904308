"""Processing what providers tell, in the order in which it happened: each event in a transaction of its own.

Events come late, twice and out of order. Captured is final, and money that came is always believed; anything else is believed
only about a payment that waits for it, and only if it is newer than what we know. A try that somebody is making is theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from typing import Any, Literal
from zoneinfo import ZoneInfo

import psycopg

from backline.db.session import Session
from backline.errors import DatabaseFailure, InvalidInput, Misconfigured, PermanentError, Rejected
from backline.payments import razorpay_events, stripe_events
from backline.payments.charging import begin_try, capture, declined, needs_action
from backline.payments.declines import CANCELLED, classify
from backline.payments.events import Told
from backline.payments.records import Order, Payment, Run, lock, transaction
from backline.settings import settings
from backline.subscriptions.renewal import Outcome, renew

AT_ONCE = 1_000
"""Events of one run at most."""
CHARGED_AHEAD_DAYS = 7
"""A subscription that is charged longer before its next day was charged for a cycle that is paid already."""
NAMED = 20
"""Problems of a report at most."""
READERS: Mapping[str, Callable[[str, Mapping[str, Any]], Told | None]] = {
    stripe_events.SOURCE: stripe_events.told,
    razorpay_events.SOURCE: razorpay_events.told,
}
Verdict = Literal["applied", "known", "stale", "kept"]


class Waits(PermanentError):
    """What the event is about is not there yet: it is tried again with the next run."""


@dataclass
class Ingested:
    """What a run did: events by what became of them, and the problems of those that came to nothing."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For the run's result."""
        return {**self.counts, "problems": self.problems[:NAMED]}


def ingest(database: Session, patience_hours: float) -> Ingested:
    """Process the events that wait. One that cannot be applied for longer than `patience_hours`, or never, is done with a problem."""
    report = Ingested()
    place: tuple[datetime, int] = (datetime.min.replace(tzinfo=UTC), 0)
    for _ in range(AT_ONCE):
        taken = _next(database, place, patience_hours, report)
        if taken is None:
            break
        place = taken
    return report


def _next(
    database: Session, place: tuple[datetime, int], patience_hours: float, report: Ingested
) -> tuple[datetime, int] | None:
    with transaction(database) as run:
        rows = run("event_take", occurred_at=place[0], id=place[1])
        if not rows:
            return None
        [row] = rows
        problem, payment_id, verdict, is_done = None, None, "kept", True
        try:
            with database.transaction():  # what a bad event began comes to nothing
                verdict, payment_id = _apply(database, run, row)
        except Waits as exc:
            is_done = row["waited_hours"] > patience_hours
            problem, verdict = str(exc), "failed" if is_done else "waiting"
        except DatabaseFailure:
            raise
        except (PermanentError, Misconfigured, psycopg.IntegrityError, psycopg.DataError) as exc:
            problem, verdict = str(exc).splitlines()[0][:500], "failed"
        run("event_end", id=row["id"], is_done=is_done, problem=problem, payment_id=payment_id)
    report.counts[verdict] += 1
    if verdict == "failed":
        report.problems.append(f"{row['provider']} {row['type']} {row['event_id']}: {problem}")
    return row["occurred_at"], row["id"]


def _apply(database: Session, run: Run, row: Mapping[str, Any]) -> tuple[Verdict, int | None]:
    told = READERS[row["provider"]](row["type"], row["body"])
    if told is None:
        return "kept", None
    found = run("event_payment", provider=row["provider"], reference=told.reference, key=told.key)
    if told.kind == "subscription_charged" and not found:
        return _subscription_charged(database, run, row, told)
    if not found:
        if told.key is None:  # of another of the account's uses
            return "kept", None
        raise Waits(f"no payment bears the key {told.key}")
    order, payment = lock(run, found[0]["order_id"])
    if payment is None or payment.id != found[0]["id"]:
        if told.kind == "captured":
            raise Rejected(f"money came for payment {found[0]['id']}, in whose place there is another; give it back")
        return "stale", found[0]["id"]
    return _move(run, told, row["occurred_at"], order, payment), payment.id


def _move(run: Run, told: Told, at: datetime, order: Order, payment: Payment) -> Verdict:
    if told.kind in ("captured", "subscription_charged"):
        return _captured(run, told, order, payment)
    is_older = payment.failed_at is not None and at < payment.failed_at.replace(microsecond=0)
    waits_for_it = payment.state in ("pending", "requires_action") and payment.open_try is None
    if not waits_for_it or is_older or (told.kind == "requires_action" and payment.state == "requires_action"):
        return "stale"
    begin_try(run, payment)
    _, payment = _again(run, order)
    if told.kind == "requires_action":
        needs_action(run, payment, payment.tries, told.reference, classify(("authentication_required",)))
    elif told.decline is not None and told.decline.kind == "needs_action":
        needs_action(run, payment, payment.tries, told.reference, told.decline)
    else:
        declined(run, payment, told.reference, told.decline or CANCELLED)
    return "applied"


def _captured(run: Run, told: Told, order: Order, payment: Payment) -> Verdict:
    if payment.state == "captured":
        if payment.provider_reference == told.reference:
            return "known"
        raise Rejected(
            f"order {order.number} was paid twice, by {payment.provider_reference} and {told.reference}; give one back"
        )
    if (told.amount_minor, told.currency) != (payment.amount_minor, payment.currency):
        raise Rejected(
            f"order {order.number} costs {payment.amount_minor} {payment.currency} in minor units, and {told.amount_minor} "
            f"{told.currency} came"
        )
    if order.state == "pending":
        raise Waits(f"order {order.number} is paid, and its stock is not reserved yet")
    if order.state != "reserved":
        raise Rejected(f"money came for order {order.number}, which is {order.state}; give it back")
    capture(run, payment, told.reference)
    return "applied"


def _subscription_charged(
    database: Session, run: Run, row: Mapping[str, Any], told: Told
) -> tuple[Verdict, int | None]:
    """The order of the subscription's cycle: the one that waits for its money, or a new one."""
    found = run("subscription_charged", provider=row["provider"], reference=told.subscription, at=row["occurred_at"])
    if not found:
        raise Waits(f"no subscription of ours is {told.subscription}")
    [subscription] = found
    order_id = subscription["order_id"]
    order, payment = lock(run, _renewed(database, subscription) if order_id is None else order_id)
    if payment is None:
        run("payment_make", order_id=order.id, provider=row["provider"])
        order, payment = _again(run, order)
    if payment.provider != row["provider"]:
        raise Rejected(f"order {order.number} is to be paid by {payment.provider}, and money came by {row['provider']}")
    return _captured(run, told, order, payment), payment.id


def _renewed(database: Session, subscription: Mapping[str, Any]) -> int:
    """The id of the next cycle's order, made now: the provider may charge some days ahead of it."""
    name, cycle_on = f"subscription {subscription['id']}", subscription["next_on"]
    if cycle_on is None:
        raise Rejected(f"money came for {name}, which is {subscription['state']}; give it back")
    if subscription["days_ahead"] > CHARGED_AHEAD_DAYS:
        raise Rejected(f"money came for {name}, whose next day is {cycle_on}; if this cycle is paid, give it back")
    zone = ZoneInfo(subscription["zone"])
    # The day on which it is looked at: its own, or, where it had been put off, the day until which it was.
    begins = datetime.combine(subscription["retry_on"] or cycle_on, time(), zone)
    renewal = renew(database, subscription["id"], max(begins, datetime.now(UTC)), settings().subscriptions)
    if renewal.outcome is Outcome.DEFERRED:
        raise Waits(f"{name} is paid, and there is not enough stock for its order")
    if renewal.outcome is not Outcome.ORDERED or renewal.order_id is None:
        raise Rejected(f"money came for {name}, whose cycle of {cycle_on} is {renewal.outcome}; give it back")
    return renewal.order_id


def _again(run: Run, order: Order) -> tuple[Order, Payment]:
    order, payment = lock(run, order.id)
    if payment is None:
        raise InvalidInput("payment", f"order {order.number} has none")
    return order, payment
