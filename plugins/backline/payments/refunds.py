"""Giving an order's money back: all of it, once."""

from __future__ import annotations

from typing import Any

import psycopg

from backline.errors import InvalidInput, Rejected
from backline.payments.charges import void_payment
from backline.payments.provider import Provider
from backline.payments.repository import charge_request, lock_order, transaction


def refund(database: psycopg.Connection[Any], provider: Provider, order_id: int, reason: str) -> None:
    """Give back all that was paid for an order; if nothing was, make sure that nothing comes any more. Repeated, it does no more.

    The order itself is left as it is: `orders` settles it with its stock. Raises InvalidInput if there is no such order, Rejected if the provider will not give it
    back, and the provider's other errors.
    """
    with transaction(database) as run:
        order, payment = lock_order(run, order_id)
        if payment is None:
            return
        if payment.provider != provider.name:
            raise InvalidInput(
                "order_id", f"order {order.number} is paid by {payment.provider}, not by {provider.name}"
            )
        begun = run("refund_start", payment_id=payment.id, reason=reason)
    if payment.state != "captured":
        if payment.state != "abandoned" or payment.open_attempt is not None:
            # The provider is not asked about a payment that it was never told of.
            void_payment(
                database, provider, charge_request(order, payment, max(payment.attempts, 1), resumed=True), payment
            )
        return
    if not begun or payment.provider_reference is None:
        return
    refund_id, amount = begun[0]["id"], begun[0]["amount_minor"]
    try:
        reference = provider.refund(payment.provider_reference, amount, f"refund-{order.number}-{refund_id}")
    except Rejected as exc:
        with transaction(database) as run:
            run("refund_fail", refund_id=refund_id, reference=None)
        raise Rejected(f"order {order.number}: {exc}", code=exc.code) from exc
    with transaction(database) as run:
        lock_order(run, order_id)
        run("refund_finish", refund_id=refund_id, reference=reference)
