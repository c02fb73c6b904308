"""Refunds an order in full, once."""

from __future__ import annotations

from typing import Any

import psycopg

from backline.errors import InvalidInput, Rejected
from backline.payments.charges import void_payment
from backline.payments.provider import Provider
from backline.payments.repository import charge_request, lock_order, transaction


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
            request = charge_request(order, payment, max(payment.attempts, 1), resumed=True)
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
