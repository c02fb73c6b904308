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

from backline.db.connect import Session
from backline.errors import DatabaseFailure, InvalidInput, Misconfigured, PermanentError, Rejected
from backline.payments import razorpay_events, stripe_events
from backline.payments.charges import record_action_required, record_capture, record_decline, start_attempt
from backline.payments.declines import CANCELLED, classify
from backline.payments.events import ParsedEvent
from backline.payments.repository import Order, Payment, RunStatement, lock_order, transaction
from backline.settings import settings
from backline.subscriptions.renewal import RenewalOutcome, renew
from backline.subscriptions.settings import SubscriptionSettings

BATCH_LIMIT = 1_000
"""Events of one run at most."""
MAX_DAYS_CHARGED_AHEAD = 7
"""A subscription that is charged longer before its next day was charged for a cycle that is paid already."""
MAX_LISTED = 20
"""Problems of a report at most."""
PARSERS: Mapping[str, Callable[[str, Mapping[str, Any]], ParsedEvent | None]] = {
    stripe_events.STRIPE: stripe_events.parse_stripe_event,
    razorpay_events.RAZORPAY: razorpay_events.parse_razorpay_event,
}
EventOutcome = Literal["applied", "known", "stale", "kept"]


class NotReady(PermanentError):
    """What the event is about is not there yet: it is tried again with the next run."""


@dataclass
class IngestReport:
    """What a run did: events by what became of them, and the problems of those that came to nothing."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For the run's result."""
        return {**self.counts, "problems": self.problems[:MAX_LISTED]}


def ingest(database: Session, max_wait_hours: float) -> IngestReport:
    """Process the events that wait. One that cannot be applied for longer than `patience_hours`, or never, is done with a problem."""
    report = IngestReport()
    place: tuple[datetime, int] = (datetime.min.replace(tzinfo=UTC), 0)
    for _ in range(BATCH_LIMIT):
        taken = _process_next(database, place, max_wait_hours, report)
        if taken is None:
            break
        place = taken
    return report


def _process_next(
    database: Session, place: tuple[datetime, int], max_wait_hours: float, report: IngestReport
) -> tuple[datetime, int] | None:
    with transaction(database) as run:
        rows = run("event_claim", occurred_at=place[0], id=place[1])
        if not rows:
            return None
        [row] = rows
        problem, payment_id, verdict, is_done = None, None, "kept", True
        try:
            with database.transaction():  # what a bad event began comes to nothing
                verdict, payment_id = _apply(database, run, row)
        except NotReady as exc:
            is_done = row["waited_hours"] > max_wait_hours
            problem, verdict = str(exc), "failed" if is_done else "waiting"
        except DatabaseFailure:
            raise
        except (PermanentError, Misconfigured, psycopg.IntegrityError, psycopg.DataError) as exc:
            problem, verdict = str(exc).splitlines()[0][:500], "failed"
        run("event_finish", id=row["id"], is_done=is_done, problem=problem, payment_id=payment_id)
    report.counts[verdict] += 1
    if verdict == "failed":
        report.problems.append(f"{row['provider']} {row['type']} {row['event_id']}: {problem}")
    return row["occurred_at"], row["id"]


def _apply(database: Session, run: RunStatement, row: Mapping[str, Any]) -> tuple[EventOutcome, int | None]:
    told = PARSERS[row["provider"]](row["type"], row["body"])
    if told is None:
        return "kept", None
    found = run("event_payment_find", provider=row["provider"], reference=told.reference, key=told.idempotency_key)
    if told.kind == "charged_subscription_find" and not found:
        return _apply_subscription_charge(database, run, row, told)
    if not found:
        if told.idempotency_key is None:  # of another of the account's uses
            return "kept", None
        raise NotReady(f"no payment bears the key {told.idempotency_key}")
    order, payment = lock_order(run, found[0]["order_id"])
    if payment is None or payment.id != found[0]["id"]:
        if told.kind == "captured":
            raise Rejected(f"money came for payment {found[0]['id']}, in whose place there is another; give it back")
        return "stale", found[0]["id"]
    return _update_payment(run, told, row["occurred_at"], order, payment), payment.id


def _update_payment(run: RunStatement, told: ParsedEvent, at: datetime, order: Order, payment: Payment) -> EventOutcome:
    if told.kind in ("captured", "charged_subscription_find"):
        return _apply_capture(run, told, order, payment)
    is_older = payment.failed_at is not None and at < payment.failed_at.replace(microsecond=0)
    waits_for_it = payment.state in ("pending", "requires_action") and payment.open_attempt is None
    if not waits_for_it or is_older or (told.kind == "requires_action" and payment.state == "requires_action"):
        return "stale"
    start_attempt(run, payment)
    _, payment = _reload(run, order)
    if told.kind == "requires_action":
        record_action_required(run, payment, payment.attempts, told.reference, classify(("authentication_required",)))
    elif told.decline is not None and told.decline.kind == "needs_action":
        record_action_required(run, payment, payment.attempts, told.reference, told.decline)
    else:
        record_decline(run, payment, told.reference, told.decline or CANCELLED)
    return "applied"


def _apply_capture(run: RunStatement, told: ParsedEvent, order: Order, payment: Payment) -> EventOutcome:
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
        raise NotReady(f"order {order.number} is paid, and its stock is not reserved yet")
    if order.state != "reserved":
        raise Rejected(f"money came for order {order.number}, which is {order.state}; give it back")
    record_capture(run, payment, told.reference)
    return "applied"


def _apply_subscription_charge(
    database: Session, run: RunStatement, row: Mapping[str, Any], told: ParsedEvent
) -> tuple[EventOutcome, int | None]:
    """The order of the subscription's cycle: the one that waits for its money, or a new one."""
    found = run(
        "charged_subscription_find",
        provider=row["provider"],
        reference=told.subscription_reference,
        at=row["occurred_at"],
    )
    if not found:
        raise NotReady(f"no subscription of ours is {told.subscription_reference}")
    [subscription] = found
    order_id = subscription["order_id"]
    order, payment = lock_order(run, _create_cycle_order(database, subscription) if order_id is None else order_id)
    if payment is None:
        run("payment_insert", order_id=order.id, provider=row["provider"])
        order, payment = _reload(run, order)
    if payment.provider != row["provider"]:
        raise Rejected(f"order {order.number} is to be paid by {payment.provider}, and money came by {row['provider']}")
    return _apply_capture(run, told, order, payment), payment.id


def _create_cycle_order(database: Session, subscription: Mapping[str, Any]) -> int:
    """The id of the next cycle's order, made now: the provider may charge some days ahead of it."""
    name, cycle_on = f"subscription {subscription['id']}", subscription["next_on"]
    if cycle_on is None:
        raise Rejected(f"money came for {name}, which is {subscription['state']}; give it back")
    if subscription["days_ahead"] > MAX_DAYS_CHARGED_AHEAD:
        raise Rejected(f"money came for {name}, whose next day is {cycle_on}; if this cycle is paid, give it back")
    zone = ZoneInfo(subscription["zone"])
    # The day on which it is looked at: its own, or, where it had been put off, the day until which it was.
    begins = datetime.combine(subscription["retry_on"] or cycle_on, time(), zone)
    renewal = renew(
        database, subscription["id"], max(begins, datetime.now(UTC)), settings().section(SubscriptionSettings)
    )
    if renewal.outcome is RenewalOutcome.DEFERRED:
        raise NotReady(f"{name} is paid, and there is not enough stock for its order")
    if renewal.outcome is not RenewalOutcome.ORDERED or renewal.order_id is None:
        raise Rejected(f"money came for {name}, whose cycle of {cycle_on} is {renewal.outcome}; give it back")
    return renewal.order_id


def _reload(run: RunStatement, order: Order) -> tuple[Order, Payment]:
    order, payment = lock_order(run, order.id)
    if payment is None:
        raise InvalidInput("payment", f"order {order.number} has none")
    return order, payment
