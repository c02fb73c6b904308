"""Charging an order: never twice, whatever dies in between.

A try is written down and committed before the provider is asked, and its outcome is committed after. A try without an end
may have charged: whoever comes next asks for the same try again by the same keys, and the provider answers with what
happened. No transaction is open while the provider works, so two that charge the same order at once ask for the same try.

    pending ──► captured                     the order is paid, a receipt is enqueued
       │  └───► requires_action              the customer has to act
       ▼
    failed ──► pending (retry_failed_payments, when next_try_at has come)
       └─────► abandoned                     a hard decline, or too many soft ones
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg

from backline.errors import InvalidInput, PermanentError, Rejected
from backline.payments.declines import CANCELLED, Decline, classify, pause_hours
from backline.payments.provider import Charge, Charged, Provider
from backline.payments.records import Order, Payment, Run, lock, lock_or_make, transaction, wanted
from backline.settings import settings

NO_METHOD = Decline("needs_action", "payment_method_missing")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the payment of an order stands. `decline` says why, unless it is paid."""

    state: Literal["paid", "declined", "needs_action"]
    payment_id: int
    decline: Decline | None = None
    next_try_at: datetime | None = None
    """When it is tried again by itself; None if it is not."""


def charge(database: psycopg.Connection[Any], provider: Provider, order_id: int) -> Outcome:
    """Charge a reserved order, or say how its payment stands: repeated, it moves no more money and tells nobody again.

    A declined payment is not tried again here but by `retry`. In the transaction that captures the payment the order
    becomes paid and the receipt is enqueued; in the one that declines it, what the customer is told. Raises InvalidInput
    if the order does not exist or is not reserved, and the provider's errors. If the order was given up while its money
    came, the money is given back.
    """
    return _charge(database, provider, order_id, None)


def retry(database: psycopg.Connection[Any], provider: Provider, order_id: int, number: int) -> Outcome | None:
    """Make try `number` of a payment that was declined before; None if there is nothing to do: it was made, or is not due."""
    with transaction(database) as run:
        _, payment = lock_or_make(run, order_id, provider.name)
    is_due = payment.state == "failed" and payment.next_try_at is not None and payment.tries + 1 == number
    if not is_due and payment.open_try != number:
        return None
    return _charge(database, provider, order_id, number)


def _charge(database: psycopg.Connection[Any], provider: Provider, order_id: int, number: int | None) -> Outcome:
    with transaction(database) as run:
        order, payment = lock_or_make(run, order_id, provider.name)
        begun = _begin(run, order, payment, number)
    if isinstance(begun, Outcome):
        return begun
    if order.state != "reserved":
        return void(database, provider, begun, payment)
    try:
        charged = provider.look(begun) if _waits_for_the_customer(payment) else provider.charge(begun)
    except PermanentError:
        with transaction(database) as run:  # refused as a request: nothing was charged
            run(
                "try_end",
                payment_id=payment.id,
                number=begun.number,
                outcome="error",
                decline_kind=None,
                decline_code=None,
            )
        raise
    with transaction(database) as run:
        order, payment = lock_or_make(run, order_id, provider.name)
        if payment.state != "captured" and (charged.state != "captured" or order.state == "reserved"):
            return _settle(run, payment, begun, charged)
        if payment.state == "captured":
            return Outcome("paid", payment.id)
        run("reference_set", payment_id=payment.id, reference=charged.reference)
    return void(database, provider, begun, payment)


def _begin(run: Run, order: Order, payment: Payment, number: int | None) -> Charge | Outcome:
    """The try to make, written down; or how the payment stands, if none is to be made."""
    if payment.state == "captured":
        return Outcome("paid", payment.id)
    if payment.open_try is not None:
        return wanted(order, payment, payment.open_try, resumed=True)
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
    is_due = number is not None and number == payment.tries + 1
    if payment.decline is not None and (payment.state == "abandoned" or (payment.state == "failed" and not is_due)):
        return Outcome("declined", payment.id, payment.decline, payment.next_try_at)
    if _waits_for_the_customer(payment):
        # It is only looked at: the customer acts, and no try of ours is made.
        return wanted(order, payment, payment.tries, resumed=True)
    if payment.method_reference is None:
        if payment.state != "requires_action":
            begin_try(run, payment)
            return needs_action(run, payment, payment.tries + 1, None, NO_METHOD)
        return Outcome("needs_action", payment.id, NO_METHOD)
    return wanted(order, payment, begin_try(run, payment), resumed=False)


def _waits_for_the_customer(payment: Payment) -> bool:
    """Whether the customer has something to do at the provider; one without a card has not come so far."""
    return payment.state == "requires_action" and payment.provider_reference is not None


def begin_try(run: Run, payment: Payment) -> int:
    """Write down the payment's next try; returns its number."""
    [row] = run("try_begin", payment_id=payment.id)
    return int(row["number"])


def _settle(run: Run, payment: Payment, begun: Charge, charged: Charged) -> Outcome:
    """Write down how the try ended; the message goes with it."""
    number = begun.number
    if payment.open_try not in (None, number):
        raise Rejected(f"payment {payment.id}: try {number} ended while it was made again; run the job again")
    if charged.state == "captured":
        return capture(run, payment, charged.reference)
    if charged.state in ("requires_action", "untried"):
        if payment.state == "requires_action":
            return Outcome("needs_action", payment.id, payment.decline)
        return needs_action(run, payment, number, charged.reference, charged.decline or classify(()))
    if payment.open_try is None and payment.state in ("failed", "abandoned"):  # another one has written it down
        return Outcome("declined", payment.id, payment.decline, payment.next_try_at)
    return declined(run, payment, charged.reference, charged.decline or CANCELLED)


def capture(run: Run, payment: Payment, reference: str) -> Outcome:
    """The money came: the payment is captured, its order paid, the receipt enqueued."""
    number = payment.open_try if payment.open_try is not None else begin_try(run, payment)
    if not run("payment_capture", payment_id=payment.id, number=number, reference=reference):
        raise Rejected(f"payment {payment.id} came, and its order does not wait for it")
    run("receipt_tell", payment_id=payment.id, wait_seconds=settings().payments.receipt_wait_seconds)
    return Outcome("paid", payment.id)


def declined(run: Run, payment: Payment, reference: str | None, decline: Decline) -> Outcome:
    """The money did not come: tried again as the schedule says, or given up; the customer is told."""
    config = settings().payments
    if payment.open_try is not None:
        run(
            "try_end", payment_id=payment.id, number=payment.open_try, outcome="declined", decline_kind=decline.kind,
            decline_code=decline.code,
        )  # fmt: skip
    pause = pause_hours(config.dunning_hours, decline, payment.tries)
    rows = run(
        "payment_decline", payment_id=payment.id, reference=reference, decline_kind=decline.kind,
        decline_code=decline.code, pause_hours=pause,
    )  # fmt: skip
    run("failure_tell", payment_id=payment.id, reason=decline.reason, fix_url=config.fix_url)
    return Outcome("declined", payment.id, decline, rows[0]["next_try_at"] if rows else None)


def needs_action(run: Run, payment: Payment, number: int, reference: str | None, decline: Decline) -> Outcome:
    """The money waits for the customer, who is told."""
    run(
        "try_end", payment_id=payment.id, number=number, outcome="requires_action", decline_kind=None, decline_code=None
    )
    run("payment_needs_action", payment_id=payment.id, reference=reference, decline_code=decline.code)
    run("failure_tell", payment_id=payment.id, reason=decline.reason, fix_url=settings().payments.fix_url)
    return Outcome("needs_action", payment.id, decline)


def void(database: psycopg.Connection[Any], provider: Provider, begun: Charge, payment: Payment) -> Outcome:
    """The order is given up: no money comes any more, and what has come goes back. The payment ends abandoned."""
    reference = None
    if payment.tries or payment.provider_reference is not None:  # else the provider was never told of it
        stands = provider.cancel(begun)
        reference = stands.reference
        if stands.state == "captured":
            provider.refund(stands.reference, begun.amount_minor, f"{begun.key}-void")
    with transaction(database) as run:
        _, now = lock(run, begun.order_id)
        if now is None or now.id != payment.id:
            return Outcome("declined", payment.id, CANCELLED)
        payment = now
        if payment.state == "captured":
            return Outcome("paid", payment.id)
        if payment.open_try is not None:
            run("try_end", payment_id=payment.id, number=payment.open_try, outcome="error", decline_kind=None,
                decline_code=None)  # fmt: skip
        run("payment_decline", payment_id=payment.id, reference=reference, decline_kind=CANCELLED.kind,
            decline_code=CANCELLED.code, pause_hours=None)  # fmt: skip
    return Outcome("declined", payment.id, CANCELLED)
