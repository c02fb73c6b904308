"""Charges an order and refunds it, each at most once, even if a process dies at any point.

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

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import psycopg
from psycopg.rows import DictRow

from backline.errors import InvalidInput, PermanentError, Rejected
from backline.outbox.submission import enqueue
from backline.payments.declines import CANCELLED, Decline, classify, retry_delay_hours
from backline.payments.provider import ChargeRequest, ChargeResult, Provider
from backline.payments.repository import Order, Payment, RunStatement, lock_or_create, lock_order, transaction
from backline.payments.settings import PaymentSettings
from backline.settings import settings

NO_METHOD = Decline("needs_action", "payment_method_missing")


@dataclass(frozen=True, slots=True)
class ChargeOutcome:
    """The state of an order's payment. `decline` is the reason, unless it is paid."""

    state: Literal["paid", "declined", "needs_action"]
    payment_id: int
    decline: Decline | None = None
    next_attempt_at: datetime | None = None
    """When the next automatic attempt is due; None if there is none."""


def charge(
    database: psycopg.Connection[Any], provider: Provider, order_id: int, number: int | None = None
) -> ChargeOutcome:
    """Charge a reserved order, or return the state of its payment. Repeated calls charge and notify no second time.

    A declined payment is attempted again only as attempt `number`, by `retry_charge`. The transaction that captures the
    payment also marks the order paid and enqueues the receipt; the one that records a decline enqueues the message about
    it. If the order was cancelled meanwhile, captured money is refunded. Raises InvalidInput if the order does not exist or
    is not reserved, and the provider's errors.
    """
    with transaction(database) as run:
        order, payment = lock_or_create(run, order_id, provider.name)
        request = _prepare_attempt(run, order, payment, number)
    if isinstance(request, ChargeOutcome):
        return request
    if order.state != "reserved":
        return void_payment(database, provider, request, payment)
    try:
        result = provider.get_status(request) if _awaits_customer(payment) else provider.charge(request)
    except PermanentError:
        with transaction(database) as run:  # the request itself was refused: nothing was charged
            _finish_attempt(run, payment, request.attempt, "error")
        raise
    with transaction(database) as run:
        order, payment = lock_or_create(run, order_id, provider.name)
        if payment.state != "captured" and (result.state != "captured" or order.state == "reserved"):
            return _record_result(run, payment, request, result)
        if payment.state == "captured":
            return ChargeOutcome("paid", payment.id)
        run("payment_reference_set", payment_id=payment.id, reference=result.reference)
    return void_payment(database, provider, request, payment)


def retry_charge(
    database: psycopg.Connection[Any], provider: Provider, order_id: int, number: int
) -> ChargeOutcome | None:
    """Make attempt `number` of a declined payment; None if it was made already or is not due."""
    with transaction(database) as run:
        _, payment = lock_or_create(run, order_id, provider.name)
    is_due = payment.state == "failed" and payment.next_attempt_at is not None and payment.attempts + 1 == number
    if not is_due and payment.open_attempt != number:
        return None
    return charge(database, provider, order_id, number)


def _prepare_attempt(
    run: RunStatement, order: Order, payment: Payment, number: int | None
) -> ChargeRequest | ChargeOutcome:
    """The attempt to make, recorded; or the payment's state, if no attempt is to be made."""
    if payment.state == "captured":
        return ChargeOutcome("paid", payment.id)
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
            start_attempt(run, payment)
            return record_action_required(run, payment, payment.attempts + 1, None, NO_METHOD)
        return ChargeOutcome("needs_action", payment.id, NO_METHOD)
    return ChargeRequest(payment, order.number, start_attempt(run, payment), is_resumed=False)


def _awaits_customer(payment: Payment) -> bool:
    """Whether the customer has to act at the provider; without a card the provider does not know the payment yet."""
    return payment.state == "requires_action" and payment.provider_reference is not None


def start_attempt(run: RunStatement, payment: Payment) -> int:
    """Record the payment's next attempt; returns its number."""
    [row] = run("attempt_start", payment_id=payment.id)
    return int(row["number"])


def _finish_attempt(
    run: RunStatement, payment: Payment, number: int, outcome: str, decline: Decline | None = None
) -> None:
    kind, code = (decline.kind, decline.code) if decline else (None, None)
    values = {"number": number, "outcome": outcome, "decline_kind": kind, "decline_code": code}
    run("attempt_finish", payment_id=payment.id, **values)


def _record_result(run: RunStatement, payment: Payment, request: ChargeRequest, result: ChargeResult) -> ChargeOutcome:
    """Record the result of an attempt and enqueue the message about it."""
    number = request.attempt
    if payment.open_attempt not in (None, number):
        raise Rejected(f"payment {payment.id}: attempt {number} ended during a repeated call; run the job again")
    if result.state == "captured":
        return record_capture(run, payment, result.reference)
    if result.state in ("requires_action", "not_attempted"):
        if payment.state == "requires_action":
            return ChargeOutcome("needs_action", payment.id, payment.decline)
        return record_action_required(run, payment, number, result.reference, result.decline or classify(()))
    if payment.open_attempt is None and payment.state in ("failed", "abandoned"):  # another run has recorded it
        return ChargeOutcome("declined", payment.id, payment.decline, payment.next_attempt_at)
    return record_decline(run, payment, result.reference, result.decline or CANCELLED)


def record_capture(run: RunStatement, payment: Payment, reference: str) -> ChargeOutcome:
    """Mark the payment captured and its order paid, and enqueue the receipt."""
    number = payment.open_attempt if payment.open_attempt is not None else start_attempt(run, payment)
    if not run("payment_capture", payment_id=payment.id, number=number, reference=reference):
        raise Rejected(f"payment {payment.id} was captured, but its order is not reserved")
    _enqueue_receipt(run, payment.id, settings().section(PaymentSettings).receipt_delay_seconds)
    return ChargeOutcome("paid", payment.id)


def record_decline(run: RunStatement, payment: Payment, reference: str | None, decline: Decline) -> ChargeOutcome:
    """Schedule the next attempt, or abandon the payment, and notify the customer."""
    config = settings().section(PaymentSettings)
    if payment.open_attempt is not None:
        _finish_attempt(run, payment, payment.open_attempt, "declined", decline)
    delay = retry_delay_hours(config.dunning_hours, decline, payment.attempts)
    rows = run(
        "payment_decline", payment_id=payment.id, reference=reference, decline_kind=decline.kind,
        decline_code=decline.code, retry_delay_hours=delay,
    )  # fmt: skip
    _enqueue_payment_failed(run, payment.id, decline.reason, config.fix_url)
    return ChargeOutcome("declined", payment.id, decline, rows[0]["next_attempt_at"] if rows else None)


def record_action_required(
    run: RunStatement, payment: Payment, number: int, reference: str | None, decline: Decline
) -> ChargeOutcome:
    """Mark the payment as waiting for the customer, and notify them."""
    _finish_attempt(run, payment, number, "requires_action")
    run("payment_needs_action", payment_id=payment.id, reference=reference, decline_code=decline.code)
    _enqueue_payment_failed(run, payment.id, decline.reason, settings().section(PaymentSettings).fix_url)
    return ChargeOutcome("needs_action", payment.id, decline)


def void_payment(
    database: psycopg.Connection[Any], provider: Provider, request: ChargeRequest, payment: Payment
) -> ChargeOutcome:
    """Abandon the payment of a cancelled order: cancel it at the provider, and refund what was captured."""
    reference = None
    if payment.attempts or payment.provider_reference is not None:  # otherwise the provider does not know the payment
        result = provider.cancel(request)
        reference = result.reference
        if result.state == "captured":
            provider.refund(result.reference, request.payment.amount_minor, f"{request.payment.idempotency_key}-void")
    with transaction(database) as run:
        _, current = lock_order(run, request.payment.order_id)
        if current is None or current.id != payment.id:
            return ChargeOutcome("declined", payment.id, CANCELLED)
        if current.state == "captured":
            return ChargeOutcome("paid", current.id)
        if current.open_attempt is not None:
            _finish_attempt(run, current, current.open_attempt, "error")
        run("payment_decline", payment_id=current.id, reference=reference, decline_kind=CANCELLED.kind,
            decline_code=CANCELLED.code, retry_delay_hours=None)  # fmt: skip
    return ChargeOutcome("declined", payment.id, CANCELLED)


def refund(database: psycopg.Connection[Any], provider: Provider, order_id: int, reason: str) -> None:
    """Refund all that was paid for an order; if nothing was, prevent any further capture. Repeated calls refund no second time.

    The order's own state does not change: `orders` changes it with the stock. Raises InvalidInput if the order does not
    exist, Rejected if the provider refuses, and the provider's other errors.
    """
    with transaction(database) as run:
        order, payment = lock_order(run, order_id)
        if payment is None:
            return
        if payment.provider != provider.name:
            raise InvalidInput("order_id", f"order {order.number} is paid by {payment.provider}, not {provider.name}")
        started = run("refund_start", payment_id=payment.id, reason=reason)
    if payment.state != "captured":
        if payment.state != "abandoned" or payment.open_attempt is not None:
            request = ChargeRequest(payment, order.number, max(payment.attempts, 1), is_resumed=True)
            void_payment(database, provider, request, payment)
        return
    if not started or payment.provider_reference is None:
        return
    refund_id, amount = started[0]["id"], started[0]["amount_minor"]
    try:
        reference = provider.refund(payment.provider_reference, amount, f"refund-{order.number}-{refund_id}")
    except Rejected as exc:
        with transaction(database) as run:
            run("refund_fail", refund_id=refund_id, reference=None)
        raise Rejected(f"order {order.number}: {exc}", code=exc.code) from exc
    with transaction(database) as run:
        lock_order(run, order_id)
        run("refund_finish", refund_id=refund_id, reference=reference)


def _enqueue_receipt(run: RunStatement, payment_id: int, delay_seconds: float) -> None:
    """Enqueue the receipt of a captured payment, once per order. Until it is due, the invoice can be added to it."""
    [row] = run("payment_notice_get", payment_id=payment_id)
    if row["state"] != "captured":
        return
    payload = _message_payload(row, paid_at=row["captured_at"], zone=row["zone"])
    due_at = row["captured_at"] + timedelta(seconds=delay_seconds)
    key = f"payment_receipt/{row['order_id']}"
    enqueue(run.database, "payment_receipt", row["email"], payload, key=key, due_at=due_at)


def _enqueue_payment_failed(run: RunStatement, payment_id: int, reason: str | None, fix_url: str) -> None:
    """Tell the customer, unless deactivated, that an attempt failed, once per attempt."""
    [row] = run("payment_notice_get", payment_id=payment_id)
    if row["customer_is_deactivated"]:
        return
    payload = _message_payload(
        row, reason=reason, fix_url=fix_url.replace("{order}", row["order_number"]), retry_on=row["retry_on"]
    )
    key = f"payment_failed:{payment_id}:{row['attempts']}:{row['state']}"
    enqueue(run.database, "payment_failed", row["email"], payload, key=key)


def _message_payload(row: DictRow, **more: Any) -> dict[str, Any]:
    """What both have in common, and more; what is None is left out."""
    order = "Bestellung" if row["language"].startswith("de") else "Order"
    common = {
        "name": row["name"], "what": f"{order} {row['order_number']}", "amount": row["amount_minor"],
        "currency": row["currency"], "language": row["language"],
    }  # fmt: skip
    return {name: value for name, value in {**common, **more}.items() if value is not None}
