"""Orders and their lines as rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime


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
    payment_provider: str | None
    is_refunding: bool
    is_refunded: bool
    has_open_attempt: bool
    is_retry_scheduled: bool
    is_payment_abandoned: bool
    is_payment_overdue: bool
    is_billed_by_provider: bool
    was_notified: bool


@dataclass(frozen=True, slots=True)
class PricedLine:
    """What a message shows of a line of an order. Amounts are in minor units."""

    description: str
    quantity: int
    net_minor: int
    tax_minor: int


@dataclass(frozen=True, slots=True)
class OrderLine(PricedLine):
    """A line of an order."""

    sku: str
    is_retired: bool


@dataclass(frozen=True, slots=True)
class StockDemand:
    """A product of an order: how many pieces the order needs, and how many are not reserved."""

    sku: str
    wanted: int
    free: int
