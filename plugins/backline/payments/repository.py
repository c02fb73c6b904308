"""Orders and payments as rows, and the transactions that change them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row

from backline.db.connect import translate_errors
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.payments.declines import CANCELLED, Decline


class RunStatement:
    """Runs the named statements of `payments` in one transaction."""

    def __init__(self, cursor: psycopg.Cursor[DictRow]) -> None:
        self._cursor = cursor
        self.database: psycopg.Connection[Any] = cursor.connection

    def __call__(self, name: LiteralString, **values: Any) -> list[DictRow]:
        """The rows of a statement, if it returns any."""
        self._cursor.execute(statement("payments", name), values)
        return self._cursor.fetchall() if self._cursor.description else []


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
    refunded_minor: int
    currency: str
    state: str
    attempts: int
    decline_kind: Any
    decline_code: str | None
    failed_at: datetime | None
    next_attempt_at: datetime | None
    open_attempt: int | None

    @property
    def decline(self) -> Decline | None:
        """The last decline, if there was one."""
        return Decline(self.decline_kind, self.decline_code) if self.decline_kind and self.decline_code else None


@contextmanager
def transaction(database: psycopg.Connection[Any]) -> Iterator[RunStatement]:
    """A separate transaction, committed at the end; InvalidInput if the connection is in a transaction.

    What a provider did must be stored whatever the caller does later, so it cannot be part of the caller's transaction.
    """
    if database.info.transaction_status != TransactionStatus.IDLE:
        raise InvalidInput("database", "is in a transaction; commit it first, because payments commit their own")
    with translate_errors(), database.transaction(), database.cursor(row_factory=dict_row) as cursor:
        yield RunStatement(cursor)


def lock_order(run: RunStatement, order_id: int) -> tuple[Order, Payment | None]:
    """An order and its payment, locked until the transaction ends; InvalidInput if the order does not exist."""
    orders = run("order_lock", order_id=order_id)
    if not orders:
        raise InvalidInput("order_id", f"there is no order {order_id}")
    payments = run("payment_lock", order_id=order_id)
    return Order(**orders[0]), Payment(**payments[0]) if payments else None


def lock_or_create(run: RunStatement, order_id: int, provider: str) -> tuple[Order, Payment]:
    """As `lock_order`, creating a payment if there is none, or if the last one was cancelled and the order is reserved again.

    InvalidInput if the payment is another provider's.
    """
    order, payment = lock_order(run, order_id)
    if order.billing_provider not in (None, provider):
        reason = f"belongs to a subscription that {order.billing_provider} charges itself; wait for its event"
        raise InvalidInput("order_id", f"order {order.number} {reason}")
    was_cancelled = payment is not None and payment.state == "abandoned" and payment.decline == CANCELLED
    if payment is None or (was_cancelled and payment.open_attempt is None and order.state == "reserved"):
        run("payment_insert", order_id=order_id, provider=provider)
        order, payment = lock_order(run, order_id)
    if payment is None:
        raise InvalidInput("order_id", f"order {order.number}: the payment of another order has its idempotency key")
    if payment.provider != provider:
        raise InvalidInput("order_id", f"order {order.number} is paid by {payment.provider}, not by {provider}")
    return order, payment
