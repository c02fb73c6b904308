"""Applies the stored events of payment providers to payments and orders, in the order in which they occurred.

Events arrive late, repeated and out of order. A captured payment is final, and an event about captured money is always
applied. Any other event is applied only to a payment that waits for a result and has no open attempt, and only if it is newer
than the payment's last result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from backline.db.connect import Session, fetch_one
from backline.db.statements import statement
from backline.errors import InvalidInput, PermanentError, Rejected
from backline.jobs.batch import BatchResult, with_unsent
from backline.jobs.job import Job
from backline.payments.charges import record_action_required, record_capture, record_decline, start_attempt
from backline.payments.declines import CANCELLED, classify
from backline.payments.repository import Order, Payment, insert_payment, lock_order, transaction
from backline.payments.settings import PaymentSettings
from backline.payments.webhook_parsing import PARSERS, ParsedEvent, PaymentEvent
from backline.settings import settings
from backline.subscriptions.process_single_subscription import renew
from backline.subscriptions.rules import RenewalOutcome
from backline.subscriptions.settings import SubscriptionSettings

BATCH_LIMIT = 1_000
PAGE_SIZE = 100
MAX_PROBLEM_LENGTH = 500
MAX_DAYS_CHARGED_AHEAD = 7
"""A charge that comes earlier before the next cycle is taken to be for the last cycle, which has its order already."""
EventOutcome = Literal["applied", "duplicate", "stale", "ignored"]


class NotReady(PermanentError):
    """What the event refers to does not exist yet: a later run processes the event."""


@dataclass(frozen=True, slots=True)
class StoredEvent(PaymentEvent):
    """An event that is not processed yet."""

    id: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class _Applied:
    """What became of an event."""

    outcome: EventOutcome
    payment_id: int | None = None
    """None if it is not about a payment."""
    unsent_messages: int = 0
    """Messages that could not be enqueued; each has a dead letter."""


@dataclass(frozen=True, slots=True)
class _KnownPayment:
    id: int
    order_id: int


@dataclass(frozen=True, slots=True)
class ChargedSubscription:
    """A subscription that its provider has charged."""

    id: int
    state: str
    next_on: date | None
    zone: str
    retry_on: date | None
    days_ahead: int | None
    """Days from the charge to `next_on`."""
    order_id: int | None
    """The order of a cycle that waits for its payment."""


def ingest_payment_webhook(job: Job[PaymentSettings]) -> BatchResult:
    """Process up to `BATCH_LIMIT` waiting events; one whose dead letter was discarded counts as processed."""
    with transaction(job.database):
        job.database.execute(statement("payments", "event_dismiss"), {"job": job.name})
    return job.run_each(
        _waiting_events(job), lambda event: _process_event(job, event),
        key=lambda event: f"{event.provider} {event.event_id}", limit=BATCH_LIMIT, transactional=False,
    )  # fmt: skip


def _waiting_events(job: Job[PaymentSettings]) -> Iterator[StoredEvent]:
    occurred_at, last_id = datetime.min.replace(tzinfo=UTC), 0
    while True:
        values = {"occurred_at": occurred_at, "id": last_id, "batch_limit": PAGE_SIZE}
        page = job.items(statement("payments", "event_list_waiting"), StoredEvent, values)
        yield from page
        if len(page) < PAGE_SIZE:
            return
        occurred_at, last_id = page[-1].occurred_at, page[-1].id


def _process_event(job: Job[PaymentSettings], event: StoredEvent) -> str | tuple[str, ...]:
    """Apply one event in a transaction of its own; returns the outcomes to count.

    An event that is not ready waits for a later run, up to `event_max_wait_hours`. The problem of any other failure is
    stored with the event, so that the event does not start another run.
    """
    try:
        with transaction(job.database):
            if not job.rows(statement("payments", "event_claim"), int, {"id": event.id}):
                return "claimed"  # by another run
            applied = _apply_event(job.database, event, job.now)
            values = {"id": event.id, "payment_id": applied.payment_id}
            job.database.execute(statement("payments", "event_finish"), values)
            return with_unsent(applied.outcome, applied.unsent_messages)
    except Exception as exc:
        if not job.database.closed:
            with transaction(job.database):
                problem = {"id": event.id, "problem": str(exc).split("\n", 1)[0][:MAX_PROBLEM_LENGTH]}
                job.database.execute(statement("payments", "event_set_problem"), problem)
        if not isinstance(exc, NotReady):
            raise
        max_wait_hours = job.settings.event_max_wait_hours
        if job.now - event.received_at > timedelta(hours=max_wait_hours):
            raise Rejected(f"{exc}; waited for {max_wait_hours:.0f} hours") from exc
        return "waiting"


def _apply_event(database: Session, event: StoredEvent, now: datetime) -> _Applied:
    """Apply an event in the caller's transaction.

    NotReady if what it refers to does not exist yet; Rejected or InvalidInput if it can never be applied.
    """
    parsed = PARSERS[event.provider](event.type, event.body)
    if parsed is None:
        return _Applied("ignored")
    values = {"provider": event.provider, "reference": parsed.reference, "key": parsed.idempotency_key}
    found = fetch_one(database, statement("payments", "event_payment_find"), _KnownPayment, values)
    if parsed.kind == "subscription_charged" and found is None:
        return _apply_subscription_charge(database, event, parsed, now)
    if found is None:
        if parsed.idempotency_key is None:  # not a payment of Backline's
            return _Applied("ignored")
        raise NotReady(f"no payment has the key {parsed.idempotency_key}")
    order, payment = lock_order(database, found.order_id)
    if payment is None or payment.id != found.id:
        if parsed.kind == "captured":
            raise Rejected(f"payment {found.id} was captured after another one replaced it; refund it")
        return _Applied("stale", found.id)
    return _update_payment(database, parsed, event.occurred_at, order, payment)


def _update_payment(
    database: Session, parsed: ParsedEvent, occurred_at: datetime, order: Order, payment: Payment
) -> _Applied:
    if parsed.kind in ("captured", "subscription_charged"):
        return _apply_capture(database, parsed, order, payment)
    is_older = payment.failed_at is not None and occurred_at < payment.failed_at.replace(microsecond=0)
    awaits_result = payment.state in ("pending", "requires_action") and payment.open_attempt is None
    if not awaits_result or is_older or (parsed.kind == "requires_action" and payment.state == "requires_action"):
        return _Applied("stale", payment.id)
    start_attempt(database, payment)
    _, payment = _reload(database, order)
    if parsed.kind == "requires_action":
        decline = classify(("authentication_required",))
        change = record_action_required(database, payment, payment.attempts, parsed.reference, decline)
    elif parsed.decline is not None and parsed.decline.kind == "needs_action":
        change = record_action_required(database, payment, payment.attempts, parsed.reference, parsed.decline)
    else:
        change = record_decline(database, payment, parsed.reference, parsed.decline or CANCELLED)
    return _Applied("applied", payment.id, change.unsent_messages)


def _apply_capture(database: Session, parsed: ParsedEvent, order: Order, payment: Payment) -> _Applied:
    if payment.state == "captured":
        if payment.provider_reference == parsed.reference:
            return _Applied("duplicate", payment.id)
        raise Rejected(
            f"order {order.number} was paid twice, by {payment.provider_reference} and {parsed.reference}; refund one"
        )
    if (parsed.amount_minor, parsed.currency) != (payment.amount_minor, payment.currency):
        raise Rejected(
            f"order {order.number} costs {payment.amount_minor} {payment.currency} in minor units, but "
            f"{parsed.amount_minor} {parsed.currency} were paid"
        )
    if order.state == "pending":
        raise NotReady(f"order {order.number} is paid, but its stock is not reserved yet")
    if order.state != "reserved":
        raise Rejected(f"order {order.number} was paid, but it is {order.state}; refund the payment")
    return _Applied("applied", payment.id, record_capture(database, payment, parsed.reference).unsent_messages)


def _apply_subscription_charge(database: Session, event: StoredEvent, parsed: ParsedEvent, now: datetime) -> _Applied:
    """Pay the subscription's order that waits for its payment, or create the next cycle's order and pay that."""
    values = {"provider": event.provider, "reference": parsed.subscription_reference, "at": event.occurred_at}
    subscription = fetch_one(database, statement("payments", "charged_subscription_find"), ChargedSubscription, values)
    if subscription is None:
        raise NotReady(f"no subscription has the reference {parsed.subscription_reference}")
    order_id, unsent = subscription.order_id, 0
    if order_id is None:
        order_id, unsent = _create_cycle_order(database, subscription, now)
    order, payment = lock_order(database, order_id)
    if payment is None:
        insert_payment(database, order.id, event.provider)
        order, payment = _reload(database, order)
    if payment.provider != event.provider:
        raise Rejected(f"order {order.number} is payable by {payment.provider}, but {event.provider} charged it")
    applied = _apply_capture(database, parsed, order, payment)
    return replace(applied, unsent_messages=applied.unsent_messages + unsent)


def _create_cycle_order(database: Session, subscription: ChargedSubscription, now: datetime) -> tuple[int, int]:
    """Create the next cycle's order, possibly some days early; returns its id, and how many messages are not enqueued."""
    name, cycle_on = f"subscription {subscription.id}", subscription.next_on
    if cycle_on is None:
        raise Rejected(f"{name} was charged, but it is {subscription.state}; refund the payment")
    if subscription.days_ahead is not None and subscription.days_ahead > MAX_DAYS_CHARGED_AHEAD:
        raise Rejected(f"{name} was charged, but its next cycle is {cycle_on}; refund it if the last cycle is paid")
    # The cycle counts as due on its own day, or on the day to which it was deferred.
    due_at = datetime.combine(subscription.retry_on or cycle_on, time(), ZoneInfo(subscription.zone))
    renewal = renew(database, subscription.id, max(due_at, now), settings().section(SubscriptionSettings))
    if renewal.outcome is RenewalOutcome.DEFERRED:
        raise NotReady(f"{name} is paid, but there is not enough stock for its order")
    if renewal.outcome is not RenewalOutcome.ORDERED or renewal.order_id is None:
        raise Rejected(f"{name} was charged, but its cycle of {cycle_on} is {renewal.outcome}; refund the payment")
    return renewal.order_id, renewal.unsent_messages


def _reload(database: Session, order: Order) -> tuple[Order, Payment]:
    order, payment = lock_order(database, order.id)
    if payment is None:
        raise InvalidInput("payment", f"order {order.number} has none")
    return order, payment
