"""Refunds of captured payments: ours, each made at most once, and those that the provider has from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from backline.db.connect import Session, fetch, fetch_one
from backline.db.statements import statement
from backline.errors import InvalidInput, Rejected
from backline.money import Money
from backline.payments.charges import void_payment
from backline.payments.declines import CANCELLED
from backline.payments.provider import ChargeRequest, Provider, ProviderRefund
from backline.payments.repository import Order, Payment, lock_order, transaction

REFUND_KEY = "refund-{}-"
"""The beginning of our key of a refund, with the order's number; its row's id follows."""
REFUNDED_AT_PROVIDER = "refunded at the provider"


@dataclass(frozen=True, slots=True)
class _PendingRefund:
    id: int
    amount_minor: int


def refund(database: Session, provider: Provider, order_id: int, reason: str) -> None:
    """Refund all that was paid for an order and is not refunded yet; if nothing was paid, prevent any further capture.

    Refunds that the provider has and we do not, such as those made in its dashboard, are taken over first. Repeated calls
    refund no second time. The order's own state does not change: `orders` changes it with the stock. Raises InvalidInput if
    the order does not exist or another provider was paid, Rejected if the provider refuses, and the provider's other errors.
    """
    with transaction(database):
        order, payment = lock_order(database, order_id)
    if payment is None:
        return
    if payment.provider != provider.name:
        raise InvalidInput("order_id", f"order {order.number} is paid by {payment.provider}, not {provider.name}")
    if payment.state != "captured":
        is_void = payment.state == "abandoned" and payment.decline == CANCELLED
        if not is_void or payment.open_attempt is not None:
            request = ChargeRequest(payment, order.number, max(payment.attempts, 1), is_resumed=True)
            void_payment(database, provider, request, payment)
        return
    if payment.provider_reference is None:
        return
    found = provider.list_refunds(payment.provider_reference)
    with transaction(database):
        lock_order(database, order_id)
        for each in found:
            record_refund(database, order, payment, each)
        values = {"payment_id": payment.id, "reason": reason}
        started = fetch_one(database, statement("payments", "refund_start"), _PendingRefund, values)
    if started is None:
        return
    key = f"{REFUND_KEY.format(order.number)}{started.id}"
    try:
        made = provider.refund(payment.provider_reference, Money(started.amount_minor, payment.currency), key)
    except Rejected as exc:
        with transaction(database):
            database.execute(statement("payments", "refund_fail"), {"refund_id": started.id})
        raise Rejected(f"order {order.number}: {exc}", code=exc.code) from exc
    with transaction(database):
        lock_order(database, order_id)
        record_refund(database, order, payment, made)


def record_refund(
    database: Session, order: Order, payment: Payment, refund: ProviderRefund, reason: str = REFUNDED_AT_PROVIDER
) -> bool:
    """Record a refund of a captured payment as the provider has it; returns whether that changed anything.

    Rejected if more than the captured amount would be refunded, or in another currency.
    """
    prefix = REFUND_KEY.format(order.number)
    own = refund.key.removeprefix(prefix) if refund.key and refund.key.startswith(prefix) else ""
    if refund.amount.currency != payment.currency:
        raise Rejected(f"refund {refund.reference} is in {refund.amount.currency}, its payment in {payment.currency}")
    values = {
        "payment_id": payment.id, "refund_id": int(own) if own.isdecimal() else None, "reference": refund.reference,
        "amount_minor": refund.amount.minor, "state": refund.state, "reason": reason,
    }  # fmt: skip
    if not fetch(database, statement("payments", "refund_record"), int, values):
        return False
    if not fetch(database, statement("payments", "refund_total"), int, {"payment_id": payment.id}):
        raise Rejected(f"order {order.number}: with refund {refund.reference} more than {payment.amount} is refunded")
    return True
