"""Applies one event of a provider to a payment and its order: captures, declines, refunds and disputes.

Events arrive late, repeated and out of order. A captured payment is final, and an event about captured, refunded or disputed
money is always applied. Any other event is applied only to a payment that waits for a result and has no open attempt, and only
if it is newer than the payment's last result.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from typing import Literal
from zoneinfo import ZoneInfo

from backline.db.connect import Session, fetch, fetch_one
from backline.db.statements import statement
from backline.errors import BacklineError, InvalidInput, PermanentError, Rejected
from backline.money import Money
from backline.outbox.submission import enqueue
from backline.payments.charges import record_action_required, record_capture, record_decline, start_attempt
from backline.payments.declines import CANCELLED, classify
from backline.payments.provider import ProviderRefund
from backline.payments.refunds import record_refund
from backline.payments.repository import Order, Payment, insert_payment, lock_order, transaction
from backline.payments.webhook_parsing import PARSERS, ParsedEvent, PaymentEvent, ProviderDispute
from backline.settings import settings
from backline.subscriptions.process_single_subscription import renew
from backline.subscriptions.rules import RenewalOutcome
from backline.subscriptions.settings import SubscriptionSettings

MAX_DAYS_CHARGED_AHEAD = 7
"""A charge that comes earlier before the next cycle is taken to be for the last cycle, which has its order already."""
MAX_PROBLEM_LENGTH = 500
MAX_KEY_LENGTH = 255
MAX_WAITING = 100
"""Events of one payment that are applied before it is charged."""
EventOutcome = Literal[
    "claimed", "applied", "duplicate", "stale", "ignored", "dispute_opened", "dispute_won", "dispute_lost"
]

DISPUTE_OUTCOMES: Mapping[str, EventOutcome] = {
    "open": "dispute_opened", "won": "dispute_won", "lost": "dispute_lost"
}  # fmt: skip


class NotReady(PermanentError):
    """What the event refers to does not exist yet: a later run processes the event."""


class UnknownPayment(NotReady):
    """No payment of ours has been seen that the event could be about: it may be of another application."""


@dataclass(frozen=True, slots=True)
class StoredEvent(PaymentEvent):
    """An event that is not processed yet."""

    id: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class AppliedEvent:
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


def process_event(database: Session, event: StoredEvent, now: datetime) -> AppliedEvent:
    """Apply one event in a transaction of its own. The outcome is `claimed` if another run has it.

    The problem of an event that fails is stored with it, so that it does not start another run. NotReady if what it refers
    to does not exist yet; Rejected or InvalidInput if it can never be applied.
    """
    try:
        with transaction(database):
            if not fetch(database, statement("payments", "event_claim"), int, {"id": event.id}):
                return AppliedEvent("claimed")
            applied = _apply_event(database, event, now)
            database.execute(statement("payments", "event_finish"), {"id": event.id, "payment_id": applied.payment_id})
            return applied
    except Exception as exc:
        if not database.closed:
            with transaction(database):
                problem = {"id": event.id, "problem": str(exc).split("\n", 1)[0][:MAX_PROBLEM_LENGTH]}
                database.execute(statement("payments", "event_set_problem"), problem)
        raise


def apply_waiting_events(database: Session, order_id: int, now: datetime) -> None:
    """Apply the stored events about an order's payments, so that one that is paid is not charged.

    An event that fails is left to `ingest_payment_webhook`, which reports it.
    """
    values = {"order_id": order_id, "batch_limit": MAX_WAITING}
    for event in fetch(database, statement("payments", "event_list_of_payment"), StoredEvent, values):
        with suppress(BacklineError):
            process_event(database, event, now)


def ignore_event(database: Session, event: StoredEvent) -> None:
    """Mark an event processed that is about nothing of ours."""
    with transaction(database):
        database.execute(statement("payments", "event_finish"), {"id": event.id, "payment_id": None})


def _apply_event(database: Session, event: StoredEvent, now: datetime) -> AppliedEvent:
    """Apply an event in the caller's transaction."""
    parsed = PARSERS[event.provider](event.type, event.body)
    if parsed is None:
        return AppliedEvent("ignored")
    values = {"provider": event.provider, "reference": parsed.reference, "key": parsed.idempotency_key}
    found = fetch_one(database, statement("payments", "event_payment_find"), _KnownPayment, values)
    if parsed.kind == "subscription_charged" and found is None:
        return _apply_subscription_charge(database, event, parsed, now)
    if found is None:
        if parsed.kind in ("refund", "dispute"):  # the event that captured the payment may come later
            raise UnknownPayment(f"no payment has the reference {parsed.reference}")
        if parsed.idempotency_key is None:  # not a payment of Backline's
            return AppliedEvent("ignored")
        raise NotReady(f"no payment has the key {parsed.idempotency_key}")
    order, payment = lock_order(database, found.order_id)
    if payment is None or payment.id != found.id:
        if parsed.kind == "captured":
            raise Rejected(f"payment {found.id} was captured after another one replaced it; refund it")
        return AppliedEvent("stale", found.id)
    if parsed.refund is not None:
        return AppliedEvent(_apply_refund(database, parsed.refund, order, payment), payment.id)
    if parsed.dispute is not None:
        return AppliedEvent(_apply_dispute(database, parsed.dispute, order, payment), payment.id)
    return _update_payment(database, parsed, event.occurred_at, order, payment)


def _apply_refund(database: Session, refund: ProviderRefund, order: Order, payment: Payment) -> EventOutcome:
    """Record the refund. An order that is refunded in full changes its state, and its stock, in process_order."""
    if not _is_captured(order, payment):
        return "stale"
    return "applied" if record_refund(database, order, payment, refund) else "duplicate"


def _apply_dispute(database: Session, dispute: ProviderDispute, order: Order, payment: Payment) -> EventOutcome:
    """Record the dispute and alert operators of it; a lost one is a refund, too."""
    if not _is_captured(order, payment):
        return "stale"
    values = {
        "payment_id": payment.id, "reference": dispute.reference, "amount_minor": dispute.amount.minor,
        "currency": dispute.amount.currency, "reason": dispute.reason, "state": dispute.state,
    }  # fmt: skip
    if dispute.amount.currency != payment.currency:
        raise Rejected(
            f"dispute {dispute.reference} is in {dispute.amount.currency}, its payment in {payment.currency}"
        )
    if not fetch(database, statement("payments", "dispute_record"), int, values):
        return "duplicate"
    if dispute.state == "lost":
        [left] = fetch(database, statement("payments", "left_to_refund"), int, {"payment_id": payment.id})
        if (lost := min(left, dispute.amount.minor)) > 0:
            refund = ProviderRefund(dispute.reference, Money(lost, payment.currency), "succeeded", None)
            record_refund(database, order, payment, refund, reason="dispute lost")
    _alert(database, dispute, order)
    return DISPUTE_OUTCOMES[dispute.state]


def _is_captured(order: Order, payment: Payment) -> bool:
    """False for a payment that was given up: what arrived for it was refunded. NotReady while it may still be captured."""
    if payment.state not in ("captured", "abandoned"):
        raise NotReady(f"the payment of order {order.number} is {payment.state}; its capture is not recorded yet")
    return payment.state == "captured"


def _alert(database: Session, dispute: ProviderDispute, order: Order) -> None:
    """Tell operators of a dispute, once for each of its states."""
    actions = {
        "open": "Answer it in the provider's dashboard before its deadline; do not ship what is not shipped.",
        "won": "Nothing: the provider returns the money.",
        "lost": "Nothing: the order is refunded, with a credit note.",
    }
    context = {
        "title": f"The payment of order {order.number} is disputed: {dispute.state}", "severity": "warning",
        "summary": f"{dispute.amount}, reason: {dispute.reason}.", "details": {"Dispute": dispute.reference},
        "action": actions[dispute.state],
    }  # fmt: skip
    for address in settings().alerts.recipients:
        key = f"dispute:{dispute.reference}:{dispute.state}:{address}"[:MAX_KEY_LENGTH]
        enqueue(database, "templated_email", address, {"template": "system_alert", "context": context}, key=key)


def _update_payment(
    database: Session, parsed: ParsedEvent, occurred_at: datetime, order: Order, payment: Payment
) -> AppliedEvent:
    if parsed.kind in ("captured", "subscription_charged"):
        return _apply_capture(database, parsed, order, payment)
    is_older = payment.failed_at is not None and occurred_at < payment.failed_at.replace(microsecond=0)
    awaits_result = payment.state in ("pending", "requires_action") and payment.open_attempt is None
    if not awaits_result or is_older or (parsed.kind == "requires_action" and payment.state == "requires_action"):
        return AppliedEvent("stale", payment.id)
    start_attempt(database, payment)
    _, payment = _reload(database, order)
    if parsed.kind == "requires_action":
        decline = classify(("authentication_required",))
        change = record_action_required(database, payment, payment.attempts, parsed.reference, decline)
    elif parsed.decline is not None and parsed.decline.kind == "needs_action":
        change = record_action_required(database, payment, payment.attempts, parsed.reference, parsed.decline)
    else:
        change = record_decline(database, payment, parsed.reference, parsed.decline or CANCELLED)
    return AppliedEvent("applied", payment.id, change.unsent_messages)


def _apply_capture(database: Session, parsed: ParsedEvent, order: Order, payment: Payment) -> AppliedEvent:
    if payment.state == "captured":
        if payment.provider_reference == parsed.reference:
            return AppliedEvent("duplicate", payment.id)
        raise Rejected(
            f"order {order.number} was paid twice, by {payment.provider_reference} and {parsed.reference}; refund one"
        )
    if parsed.amount != payment.amount:
        raise Rejected(f"order {order.number} costs {payment.amount}, but {parsed.amount} were paid")
    if order.state == "pending":
        raise NotReady(f"order {order.number} is paid, but its stock is not reserved yet")
    if order.state != "reserved":
        raise Rejected(f"order {order.number} was paid, but it is {order.state}; refund the payment")
    return AppliedEvent("applied", payment.id, record_capture(database, payment, parsed.reference).unsent_messages)


def _apply_subscription_charge(
    database: Session, event: StoredEvent, parsed: ParsedEvent, now: datetime
) -> AppliedEvent:
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
