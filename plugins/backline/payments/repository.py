"""Orders and payments as rows, and the transactions that change them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from psycopg.pq import TransactionStatus

from backline.db.connect import Session, fetch_one, translate_errors
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.money import Money
from backline.payments.declines import CANCELLED, Decline, DeclineKind


@dataclass(frozen=True, slots=True)
class Order:
    """An order to be paid."""

    id: int
    number: str
    state: str
    currency: str
    total_minor: int
    billing_provider: str | None
    """The provider that charges the order's subscription itself; None if we charge it."""


@dataclass(frozen=True, slots=True)
class Payment:
    """The payment of an order."""

    id: int
    order_id: int
    provider: str
    provider_reference: str | None
    idempotency_key: str
    method_reference: str | None
    customer_reference: str | None
    amount_minor: int
    currency: str
    state: str
    attempts: int
    decline_kind: DeclineKind | None
    decline_code: str | None
    failed_at: datetime | None
    next_attempt_at: datetime | None
    open_attempt: int | None

    @property
    def amount(self) -> Money:
        """What it is to pay."""
        return Money(self.amount_minor, self.currency)

    @property
    def decline(self) -> Decline | None:
        """The last decline, if there was one."""
        return Decline(self.decline_kind, self.decline_code) if self.decline_kind and self.decline_code else None


@contextmanager
def transaction(database: Session) -> Iterator[None]:
    """A separate transaction, committed at the end; InvalidInput if the connection is in a transaction.

    What a provider did must be stored whatever the caller does later, so it cannot be part of the caller's transaction.
    """
    if database.info.transaction_status != TransactionStatus.IDLE:
        raise InvalidInput("database", "is in a transaction; commit it first, because payments commit their own")
    with translate_errors(), database.transaction():
        yield


def lock_order(database: Session, order_id: int) -> tuple[Order, Payment | None]:
    """An order and its payment, locked until the transaction ends; InvalidInput if the order does not exist."""
    order = fetch_one(database, statement("payments", "order_lock"), Order, {"order_id": order_id})
    if order is None:
        raise InvalidInput("order_id", f"there is no order {order_id}")
    return order, fetch_one(database, statement("payments", "payment_lock"), Payment, {"order_id": order_id})


def lock_or_create(database: Session, order_id: int, provider: str) -> tuple[Order, Payment]:
    """As `lock_order`, creating a payment if there is none, or if the last one was cancelled and the order is reserved again.

    InvalidInput if the payment is another provider's.
    """
    order, payment = lock_order(database, order_id)
    if order.billing_provider not in (None, provider):
        reason = f"belongs to a subscription that {order.billing_provider} charges itself; wait for its event"
        raise InvalidInput("order_id", f"order {order.number} {reason}")
    was_cancelled = payment is not None and payment.state == "abandoned" and payment.decline == CANCELLED
    if payment is None or (was_cancelled and payment.open_attempt is None and order.state == "reserved"):
        insert_payment(database, order_id, provider)
        order, payment = lock_order(database, order_id)
    if payment is None:
        raise InvalidInput("order_id", f"order {order.number}: the payment of another order has its idempotency key")
    if payment.provider != provider:
        raise InvalidInput("order_id", f"order {order.number} is paid by {payment.provider}, not by {provider}")
    return order, payment


def insert_payment(database: Session, order_id: int, provider: str) -> None:
    """Create a payment of the order, unless another order's payment has its idempotency key."""
    database.execute(statement("payments", "payment_insert"), {"order_id": order_id, "provider": provider})
