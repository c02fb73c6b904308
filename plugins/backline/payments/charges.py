"""Charges an order at most once, even if a process dies at any point.

An attempt is committed before the provider is called, and its result afterwards. An attempt without a result may have
charged: the next run repeats it with the same keys, and the provider returns what happened. No transaction is open during a
call, so overlapping runs for one order repeat the same attempt.

    pending ──► captured                     the order is paid, a receipt is enqueued
       │  └───► requires_action              the customer has to act
       ▼
    failed ──► pending (retry_failed_payments, from next_attempt_at on)
       └─────► abandoned                     a hard decline, or too many soft ones
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

from backline.db.connect import Session, fetch, fetch_one
from backline.db.statements import statement
from backline.dead_letters.unsent import enqueue_or_record
from backline.errors import InvalidInput, PermanentError, Rejected
from backline.messages.fitting import fill_url
from backline.money import Money
from backline.payments.declines import CANCELLED, Decline, classify, classify_refusal, next_attempt_at
from backline.payments.provider import ChargeRequest, ChargeResult, Provider
from backline.payments.repository import Order, Payment, lock_or_create, lock_order, transaction
from backline.payments.settings import PaymentSettings
from backline.settings import settings

NO_METHOD = Decline("needs_action", "payment_method_missing")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChargeOutcome:
    """The state of an order's payment. `decline` is the reason, unless it is paid."""

    state: Literal["paid", "declined", "needs_action"]
    payment_id: int
    decline: Decline | None = None
    next_attempt_at: datetime | None = None
    """When the next automatic attempt is due; None if there is none."""
    unsent_messages: int = 0
    """Messages about it that could not be enqueued now; each has a dead letter."""


@dataclass(frozen=True, slots=True)
class _WaitingCapture:
    event_id: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class _PaymentNotice:
    order_id: int
    state: str
    attempts: int
    amount_minor: int
    currency: str
    captured_at: datetime | None
    retry_on: date | None
    order_number: str
    email: str
    name: str
    language: str
    zone: str
    customer_is_deactivated: bool


def charge(database: Session, provider: Provider, order_id: int, number: int | None = None) -> ChargeOutcome:
    """Charge a reserved order, or return the state of its payment. Repeated calls charge and notify no second time.

    A declined payment is attempted again only as attempt `number`, by `retry_charge`. The transaction that captures the
    payment also marks the order paid and enqueues the receipt; the one that records a decline enqueues the message about
    it. If the order was cancelled meanwhile, captured money is refunded. A request that the provider refuses for good is an
    outcome, too. Raises InvalidInput if the order does not exist or is not reserved, Rejected if a part of the amount was
    captured or an event that captured it is still waiting, and the provider's other errors.
    """
    with transaction(database):
        order, payment = lock_or_create(database, order_id, provider.name)
        request = _prepare_attempt(database, order, payment, number)
    if isinstance(request, ChargeOutcome):
        return request
    if order.state != "reserved":
        return void_payment(database, provider, request, payment)
    try:
        result = provider.get_status(request) if _awaits_customer(payment) else provider.charge(request)
    except Rejected as exc:
        with transaction(database):
            _, payment = lock_or_create(database, order_id, provider.name)
            return _record_refusal(database, payment, request, exc)
    except PermanentError:
        with transaction(database):  # our own request or credentials are wrong: nothing was charged
            _finish_attempt(database, payment, request.attempt, "error")
        raise
    with transaction(database):
        order, payment = lock_or_create(database, order_id, provider.name)
        is_partial = result.captured not in (None, payment.amount)
        if is_partial and order.state == "reserved" and payment.state != "captured":
            _record_reference(database, payment, result.reference)
            _finish_attempt(database, payment, request.attempt, "error")
        elif payment.state != "captured" and (result.state != "captured" or order.state == "reserved"):
            return _record_result(database, payment, request, result)
        elif payment.state == "captured":
            return ChargeOutcome("paid", payment.id)
        else:
            is_partial = False
            _record_reference(database, payment, result.reference)
    if is_partial:
        difference = f"{result.captured} of {payment.amount} were captured"
        raise Rejected(f"order {order.number}: {difference}; refund them at the provider, or cancel the order")
    return void_payment(database, provider, request, payment)


def retry_charge(database: Session, provider: Provider, order_id: int, number: int) -> ChargeOutcome | None:
    """Make attempt `number` of a declined payment; None if it was made already or is not due."""
    with transaction(database):
        _, payment = lock_or_create(database, order_id, provider.name)
    is_due = payment.state == "failed" and payment.next_attempt_at is not None and payment.attempts + 1 == number
    if not is_due and payment.open_attempt != number:
        return None
    return charge(database, provider, order_id, number)


def _prepare_attempt(
    database: Session, order: Order, payment: Payment, number: int | None
) -> ChargeRequest | ChargeOutcome:
    """The attempt to make, recorded; or the payment's state, if no attempt is to be made."""
    if payment.state == "captured":
        return ChargeOutcome("paid", payment.id)
    if (waiting := _waiting_capture(database, payment)) is not None:
        problem = f"event {waiting.event_id} says that it is paid, and is not applied yet"
        raise Rejected(f"order {order.number}: {problem}" + (f": {waiting.problem}" if waiting.problem else ""))
    if payment.open_attempt is not None:
        return ChargeRequest(payment, order.number, payment.open_attempt, is_resumed=True)
    if order.state != "reserved":
        raise InvalidInput("order_id", f"order {order.number} is {order.state}; only a reserved one can be paid")
    if payment.amount_minor != order.total_minor:
        difference = f"costs {order.total_minor} {order.currency} in minor units, its payment is {payment.amount_minor}"
        raise InvalidInput("order_id", f"order {order.number} {difference}; create a new payment")
    is_due = number is not None and number == payment.attempts + 1
    if payment.decline is not None and (payment.state == "abandoned" or (payment.state == "failed" and not is_due)):
        return ChargeOutcome("declined", payment.id, payment.decline, payment.next_attempt_at)
    if _awaits_customer(payment):
        # Only the status is requested: the customer acts, and we make no attempt.
        return ChargeRequest(payment, order.number, payment.attempts, is_resumed=True)
    if payment.method_reference is None:
        if payment.state != "requires_action":
            start_attempt(database, payment)
            return record_action_required(database, payment, payment.attempts + 1, None, NO_METHOD)
        return ChargeOutcome("needs_action", payment.id, NO_METHOD)
    return ChargeRequest(payment, order.number, start_attempt(database, payment), is_resumed=False)


def _waiting_capture(database: Session, payment: Payment) -> _WaitingCapture | None:
    """The event that captured the payment and is not applied yet, if there is one."""
    values = {"provider": payment.provider, "reference": payment.provider_reference, "key": payment.idempotency_key}
    return fetch_one(database, statement("payments", "capture_waiting"), _WaitingCapture, values)


def _awaits_customer(payment: Payment) -> bool:
    """Whether the customer has to act at the provider; without a card the provider does not know the payment yet."""
    return payment.state == "requires_action" and payment.provider_reference is not None


def start_attempt(database: Session, payment: Payment) -> int:
    """Record the payment's next attempt; returns its number."""
    return fetch(database, statement("payments", "attempt_start"), int, {"payment_id": payment.id})[0]


def _finish_attempt(
    database: Session, payment: Payment, number: int, outcome: str, decline: Decline | None = None
) -> None:
    kind, code = (decline.kind, decline.code) if decline else (None, None)
    values = {
        "payment_id": payment.id, "number": number, "outcome": outcome, "decline_kind": kind, "decline_code": code
    }  # fmt: skip
    database.execute(statement("payments", "attempt_finish"), values)


def _record_result(database: Session, payment: Payment, request: ChargeRequest, result: ChargeResult) -> ChargeOutcome:
    """Record the result of an attempt and enqueue the message about it."""
    number = request.attempt
    if payment.open_attempt not in (None, number):
        raise Rejected(f"payment {payment.id}: attempt {number} ended during a repeated call; run the job again")
    if result.state == "captured":
        return record_capture(database, payment, result.reference)
    if result.state in ("requires_action", "not_attempted"):
        if payment.state == "requires_action":
            return ChargeOutcome("needs_action", payment.id, payment.decline)
        return record_action_required(database, payment, number, result.reference, result.decline or classify(()))
    if payment.open_attempt is None and payment.state in ("failed", "abandoned"):  # another run has recorded it
        return ChargeOutcome("declined", payment.id, payment.decline, payment.next_attempt_at)
    return record_decline(database, payment, result.reference, result.decline or CANCELLED)


def _record_refusal(database: Session, payment: Payment, request: ChargeRequest, refusal: Rejected) -> ChargeOutcome:
    """Record that the provider refused the request for good: nothing was charged, and nothing will be."""
    if payment.state == "captured":
        return ChargeOutcome("paid", payment.id)
    decline = classify_refusal(refusal.code)
    log.warning("order %s cannot be charged: %s", request.order_number, refusal)
    if payment.open_attempt != request.attempt:  # another run has recorded it
        return ChargeOutcome("needs_action", payment.id, payment.decline or decline)
    if decline.kind == "hard":
        return record_decline(database, payment, payment.provider_reference, decline)
    return record_action_required(database, payment, request.attempt, payment.provider_reference, decline)


def _record_reference(database: Session, payment: Payment, reference: str) -> None:
    values = {"payment_id": payment.id, "reference": reference}
    database.execute(statement("payments", "payment_reference_set"), values)


def record_capture(database: Session, payment: Payment, reference: str) -> ChargeOutcome:
    """Mark the payment captured and its order paid, and enqueue the receipt."""
    number = payment.open_attempt if payment.open_attempt is not None else start_attempt(database, payment)
    values = {"payment_id": payment.id, "number": number, "reference": reference}
    if not fetch(database, statement("payments", "payment_capture"), int, values):
        raise Rejected(f"payment {payment.id} was captured, but its order is not reserved")
    unsent = _enqueue_receipt(database, payment.id, settings().section(PaymentSettings).receipt_delay_seconds)
    return ChargeOutcome("paid", payment.id, unsent_messages=unsent)


def record_decline(database: Session, payment: Payment, reference: str | None, decline: Decline) -> ChargeOutcome:
    """Schedule the next attempt, or abandon the payment, and notify the customer."""
    config = settings().section(PaymentSettings)
    # Without an attempt of ours the customer has made one, at the provider.
    number = payment.open_attempt if payment.open_attempt is not None else start_attempt(database, payment)
    _finish_attempt(database, payment, number, "declined", decline)
    declined_at = fetch(database, statement("payments", "attempts_declined"), datetime, {"payment_id": payment.id})
    due_at = next_attempt_at(config.dunning_days, decline, declined_at)
    stored_due_at = _decline(database, payment, reference, decline, due_at)
    unsent = _enqueue_payment_failed(database, payment.id, decline.reason, config.fix_url)
    return ChargeOutcome("declined", payment.id, decline, stored_due_at, unsent)


def _decline(
    database: Session, payment: Payment, reference: str | None, decline: Decline, due_at: datetime | None
) -> datetime | None:
    """Mark the payment declined; returns when the next attempt is due, None if there is none."""
    values = {
        "payment_id": payment.id, "reference": reference, "decline_kind": decline.kind, "decline_code": decline.code,
        "next_attempt_at": due_at,
    }  # fmt: skip
    return fetch_one(database, statement("payments", "payment_decline"), datetime, values)


def record_action_required(
    database: Session, payment: Payment, number: int, reference: str | None, decline: Decline
) -> ChargeOutcome:
    """Mark the payment as waiting for the customer, and notify them."""
    _finish_attempt(database, payment, number, "requires_action")
    values = {"payment_id": payment.id, "reference": reference, "decline_code": decline.code}
    database.execute(statement("payments", "payment_needs_action"), values)
    fix_url = settings().section(PaymentSettings).fix_url
    unsent = _enqueue_payment_failed(database, payment.id, decline.reason, fix_url)
    return ChargeOutcome("needs_action", payment.id, decline, unsent_messages=unsent)


def void_payment(database: Session, provider: Provider, request: ChargeRequest, payment: Payment) -> ChargeOutcome:
    """Abandon the payment of a cancelled order: cancel it at the provider, and refund what was captured."""
    reference = None
    if payment.attempts or payment.provider_reference is not None:  # otherwise the provider does not know the payment
        result = _cancel(provider, request)
        reference = result.reference if result else None
        if result is not None and result.state == "captured":
            captured = result.captured or payment.amount
            found = provider.list_refunds(result.reference)
            rest = captured.minor - sum(each.amount.minor for each in found if each.state != "failed")
            if rest > 0:
                key = f"{request.payment.idempotency_key}-void"
                provider.refund(result.reference, Money(rest, captured.currency), key)
    with transaction(database):
        _, current = lock_order(database, request.payment.order_id)
        if current is None or current.id != payment.id:
            return ChargeOutcome("declined", payment.id, CANCELLED)
        if current.state == "captured":
            return ChargeOutcome("paid", current.id)
        if current.open_attempt is not None:
            _finish_attempt(database, current, current.open_attempt, "error")
        _decline(database, current, reference, CANCELLED, None)
    return ChargeOutcome("declined", payment.id, CANCELLED)


def _cancel(provider: Provider, request: ChargeRequest) -> ChargeResult | None:
    """Cancel the payment at the provider; None if it has none, because it refuses to create one of that amount."""
    try:
        return provider.cancel(request)
    except Rejected:
        if request.payment.provider_reference is not None:
            raise
        return None


def _enqueue_receipt(database: Session, payment_id: int, delay_seconds: float) -> int:
    """Enqueue the receipt of a captured payment, once per order; returns how many messages could not be enqueued.

    Until it is due, the invoice can be added to it.
    """
    notice = _load_notice(database, payment_id)
    if notice.state != "captured" or notice.captured_at is None:
        return 0
    payload = _message_payload(notice, paid_at=notice.captured_at.isoformat(), zone=notice.zone)
    due_at = notice.captured_at + timedelta(seconds=delay_seconds)
    key = f"order:{notice.order_id}:receipt"
    return enqueue_or_record(database, "payment_receipt", notice.email, payload, key=key, due_at=due_at)


def _enqueue_payment_failed(database: Session, payment_id: int, reason: str | None, fix_url: str) -> int:
    """Notify the customer, unless deactivated, that an attempt failed, once per attempt; returns as `_enqueue_receipt`."""
    notice = _load_notice(database, payment_id)
    if notice.customer_is_deactivated:
        return 0
    url = fill_url(fix_url, order=notice.order_number)
    payload = _message_payload(
        notice, reason=reason, fix_url=url, retry_on=notice.retry_on and notice.retry_on.isoformat()
    )
    key = f"payment:{payment_id}:failed:{notice.attempts}:{notice.state}"
    return enqueue_or_record(database, "payment_failed", notice.email, payload, key=key)


def _load_notice(database: Session, payment_id: int) -> _PaymentNotice:
    return fetch(database, statement("payments", "payment_notice_get"), _PaymentNotice, {"payment_id": payment_id})[0]


def _message_payload(notice: _PaymentNotice, **more: object) -> dict[str, Any]:
    """What both have in common, and more; what is None is left out."""
    order = "Bestellung" if notice.language.startswith("de") else "Order"
    common = {
        "name": notice.name, "what": f"{order} {notice.order_number}", "amount": notice.amount_minor,
        "currency": notice.currency, "language": notice.language,
    }  # fmt: skip
    return {name: value for name, value in {**common, **more}.items() if value is not None}
