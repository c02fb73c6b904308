"""Charging an order: never twice, whatever dies in between.

A try is written down and committed before the provider is asked, and its outcome is committed after. A try without an end
may have charged: whoever comes next asks for the same try again by the same keys, and the provider answers with what
happened. No transaction is open while the provider works, so two that charge the same order at once ask for the same try.

    pending ──► captured                     the order is paid, a receipt is enqueued
       │  └───► requires_action              the customer has to act
       ▼
    failed ──► pending (retry_failed_payments, when next_attempt_at has come)
       └─────► abandoned                     a hard decline, or too many soft ones
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg

from backline.errors import InvalidInput, PermanentError, Rejected
from backline.payments.declines import CANCELLED, Decline, classify, retry_delay_hours
from backline.payments.notifications import enqueue_payment_failed, enqueue_receipt
from backline.payments.provider import ChargeRequest, ChargeResult, Provider
from backline.payments.repository import (
    Order,
    Payment,
    RunStatement,
    charge_request,
    lock_or_create,
    lock_order,
    transaction,
)
from backline.payments.settings import PaymentSettings
from backline.settings import settings

NO_METHOD = Decline("needs_action", "payment_method_missing")


@dataclass(frozen=True, slots=True)
class ChargeOutcome:
    """How the payment of an order stands. `decline` says why, unless it is paid."""

    state: Literal["paid", "declined", "needs_action"]
    payment_id: int
    decline: Decline | None = None
    next_attempt_at: datetime | None = None
    """When it is tried again by itself; None if it is not."""


def charge(database: psycopg.Connection[Any], provider: Provider, order_id: int) -> ChargeOutcome:
    """Charge a reserved order, or say how its payment stands: repeated, it moves no more money and tells nobody again.

    A declined payment is not tried again here but by `retry`. In the transaction that captures the payment the order
    becomes paid and the receipt is enqueued; in the one that declines it, what the customer is told. Raises InvalidInput
    if the order does not exist or is not reserved, and the provider's errors. If the order was given up while its money
    came, the money is given back.
    """
    return _charge(database, provider, order_id, None)


def retry_charge(
    database: psycopg.Connection[Any], provider: Provider, order_id: int, number: int
) -> ChargeOutcome | None:
    """Make try `number` of a payment that was declined before; None if there is nothing to do: it was made, or is not due."""
    with transaction(database) as run:
        _, payment = lock_or_create(run, order_id, provider.name)
    is_due = payment.state == "failed" and payment.next_attempt_at is not None and payment.attempts + 1 == number
    if not is_due and payment.open_attempt != number:
        return None
    return _charge(database, provider, order_id, number)


def _charge(database: psycopg.Connection[Any], provider: Provider, order_id: int, number: int | None) -> ChargeOutcome:
    with transaction(database) as run:
        order, payment = lock_or_create(run, order_id, provider.name)
        begun = _prepare_attempt(run, order, payment, number)
    if isinstance(begun, ChargeOutcome):
        return begun
    if order.state != "reserved":
        return void_payment(database, provider, begun, payment)
    try:
        charged = provider.get_status(begun) if _awaits_customer(payment) else provider.charge(begun)
    except PermanentError:
        with transaction(database) as run:  # refused as a request: nothing was charged
            run(
                "attempt_finish",
                payment_id=payment.id,
                number=begun.attempt,
                outcome="error",
                decline_kind=None,
                decline_code=None,
            )
        raise
    with transaction(database) as run:
        order, payment = lock_or_create(run, order_id, provider.name)
        if payment.state != "captured" and (charged.state != "captured" or order.state == "reserved"):
            return _record_result(run, payment, begun, charged)
        if payment.state == "captured":
            return ChargeOutcome("paid", payment.id)
        run("payment_reference_set", payment_id=payment.id, reference=charged.reference)
    return void_payment(database, provider, begun, payment)


def _prepare_attempt(
    run: RunStatement, order: Order, payment: Payment, number: int | None
) -> ChargeRequest | ChargeOutcome:
    """The try to make, written down; or how the payment stands, if none is to be made."""
    if payment.state == "captured":
        return ChargeOutcome("paid", payment.id)
    if payment.open_attempt is not None:
        return charge_request(order, payment, payment.open_attempt, resumed=True)
    if order.state != "reserved":
        raise InvalidInput(
            "order_id",
            f"order {order.number} is {order.state}; only a reserved one can be paid (process_order reserves it)",
        )
    if payment.amount_minor != order.total_minor:
        raise InvalidInput(
            "order_id",
            f"order {order.number} costs {order.total_minor} {order.currency} in minor units, and its payment is about "
            f"{payment.amount_minor}; make a new payment",
        )
    is_due = number is not None and number == payment.attempts + 1
    if payment.decline is not None and (payment.state == "abandoned" or (payment.state == "failed" and not is_due)):
        return ChargeOutcome("declined", payment.id, payment.decline, payment.next_attempt_at)
    if _awaits_customer(payment):
        # It is only looked at: the customer acts, and no try of ours is made.
        return charge_request(order, payment, payment.attempts, resumed=True)
    if payment.method_reference is None:
        if payment.state != "requires_action":
            start_attempt(run, payment)
            return record_action_required(run, payment, payment.attempts + 1, None, NO_METHOD)
        return ChargeOutcome("needs_action", payment.id, NO_METHOD)
    return charge_request(order, payment, start_attempt(run, payment), resumed=False)


def _awaits_customer(payment: Payment) -> bool:
    """Whether the customer has something to do at the provider; one without a card has not come so far."""
    return payment.state == "requires_action" and payment.provider_reference is not None


def start_attempt(run: RunStatement, payment: Payment) -> int:
    """Write down the payment's next try; returns its number."""
    [row] = run("attempt_start", payment_id=payment.id)
    return int(row["number"])


def _record_result(run: RunStatement, payment: Payment, begun: ChargeRequest, charged: ChargeResult) -> ChargeOutcome:
    """Write down how the try ended; the message goes with it."""
    number = begun.attempt
    if payment.open_attempt not in (None, number):
        raise Rejected(f"payment {payment.id}: try {number} ended while it was made again; run the job again")
    if charged.state == "captured":
        return record_capture(run, payment, charged.reference)
    if charged.state in ("requires_action", "untried"):
        if payment.state == "requires_action":
            return ChargeOutcome("needs_action", payment.id, payment.decline)
        return record_action_required(run, payment, number, charged.reference, charged.decline or classify(()))
    if payment.open_attempt is None and payment.state in ("failed", "abandoned"):  # another one has written it down
        return ChargeOutcome("declined", payment.id, payment.decline, payment.next_attempt_at)
    return record_decline(run, payment, charged.reference, charged.decline or CANCELLED)


def record_capture(run: RunStatement, payment: Payment, reference: str) -> ChargeOutcome:
    """The money came: the payment is captured, its order paid, the receipt enqueued."""
    number = payment.open_attempt if payment.open_attempt is not None else start_attempt(run, payment)
    if not run("payment_capture", payment_id=payment.id, number=number, reference=reference):
        raise Rejected(f"payment {payment.id} came, and its order does not wait for it")
    enqueue_receipt(run, payment.id, settings().section(PaymentSettings).receipt_delay_seconds)
    return ChargeOutcome("paid", payment.id)


def record_decline(run: RunStatement, payment: Payment, reference: str | None, decline: Decline) -> ChargeOutcome:
    """The money did not come: tried again as the schedule says, or given up; the customer is told."""
    config = settings().section(PaymentSettings)
    if payment.open_attempt is not None:
        run(
            "attempt_finish", payment_id=payment.id, number=payment.open_attempt, outcome="declined", decline_kind=decline.kind,
            decline_code=decline.code,
        )  # fmt: skip
    pause = retry_delay_hours(config.dunning_hours, decline, payment.attempts)
    rows = run(
        "payment_decline", payment_id=payment.id, reference=reference, decline_kind=decline.kind,
        decline_code=decline.code, retry_delay_hours=pause,
    )  # fmt: skip
    enqueue_payment_failed(run, payment.id, decline.reason, config.fix_url)
    return ChargeOutcome("declined", payment.id, decline, rows[0]["next_attempt_at"] if rows else None)


def record_action_required(
    run: RunStatement, payment: Payment, number: int, reference: str | None, decline: Decline
) -> ChargeOutcome:
    """The money waits for the customer, who is told."""
    run(
        "attempt_finish",
        payment_id=payment.id,
        number=number,
        outcome="requires_action",
        decline_kind=None,
        decline_code=None,
    )
    run("payment_needs_action", payment_id=payment.id, reference=reference, decline_code=decline.code)
    enqueue_payment_failed(run, payment.id, decline.reason, settings().section(PaymentSettings).fix_url)
    return ChargeOutcome("needs_action", payment.id, decline)


def void_payment(
    database: psycopg.Connection[Any], provider: Provider, request: ChargeRequest, payment: Payment
) -> ChargeOutcome:
    """The order is given up: no money comes any more, and what has come goes back. The payment ends abandoned."""
    reference = None
    if payment.attempts or payment.provider_reference is not None:  # else the provider was never told of it
        stands = provider.cancel(request)
        reference = stands.reference
        if stands.state == "captured":
            provider.refund(stands.reference, request.amount_minor, f"{request.idempotency_key}-void")
    with transaction(database) as run:
        _, now = lock_order(run, request.order_id)
        if now is None or now.id != payment.id:
            return ChargeOutcome("declined", payment.id, CANCELLED)
        payment = now
        if payment.state == "captured":
            return ChargeOutcome("paid", payment.id)
        if payment.open_attempt is not None:
            run("attempt_finish", payment_id=payment.id, number=payment.open_attempt, outcome="error", decline_kind=None,
                decline_code=None)  # fmt: skip
        run("payment_decline", payment_id=payment.id, reference=reference, decline_kind=CANCELLED.kind,
            decline_code=CANCELLED.code, retry_delay_hours=None)  # fmt: skip
    return ChargeOutcome("declined", payment.id, CANCELLED)
