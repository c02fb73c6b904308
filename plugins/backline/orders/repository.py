"""Orders and their lines as rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from psycopg.rows import class_row

from backline.db.connect import Session
from backline.db.statements import statement
from backline.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Order:
    """An order, its customer, and the state of its payment; `order_get` in orders.sql explains the flags."""

    id: int
    number: str
    state: str
    currency: str
    tax_minor: int
    shipping_minor: int
    total_minor: int
    placed_at: datetime
    promised_on: date | None
    name: str
    email: str
    phone: str | None
    language: str
    zone: str
    can_be_notified: bool
    wants_sms: bool
    has_payment: bool
    is_refunding: bool
    has_open_attempt: bool
    is_retry_scheduled: bool
    is_payment_abandoned: bool
    is_payment_overdue: bool
    is_billed_by_provider: bool
    was_notified: bool


@dataclass(frozen=True, slots=True)
class OrderLine:
    """A line of an order. Amounts are in minor units."""

    description: str
    quantity: int
    net_minor: int
    tax_minor: int
    sku: str
    is_retired: bool


@dataclass(frozen=True, slots=True)
class StockDemand:
    """A product of an order: how many pieces the order needs, and how many are not reserved."""

    sku: str
    wanted: int
    free: int


def get_order(database: Session, order_id: int, payment_timeout_hours: float) -> Order:
    """One order; InvalidInput if it does not exist."""
    values = {"id": order_id, "payment_timeout_hours": payment_timeout_hours}
    with database.cursor(row_factory=class_row(Order)) as cursor:
        order = cursor.execute(statement("orders", "order_get"), values).fetchone()
    if order is None:
        raise InvalidInput("order_id", f"there is no order {order_id}; give an order's id, not its number")
    return order


def get_lines(database: Session, order_id: int) -> list[OrderLine]:
    """The lines of an order."""
    with database.cursor(row_factory=class_row(OrderLine)) as cursor:
        return cursor.execute(statement("orders", "order_lines"), {"id": order_id}).fetchall()


def lock_stock(database: Session, order_id: int) -> list[StockDemand]:
    """The products of an order, locked until the transaction ends."""
    with database.cursor(row_factory=class_row(StockDemand)) as cursor:
        return cursor.execute(statement("orders", "stock_lock"), {"id": order_id}).fetchall()
