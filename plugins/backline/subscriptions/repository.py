"""Subscriptions as rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from psycopg.rows import class_row

from backline.db.connect import Session
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.subscriptions.rules import Subscription


@dataclass(frozen=True, slots=True)
class SubscriptionRow(Subscription):
    """A subscription with its owner and product, as the database has it."""

    id: int
    reminded_cycle_on: date | None
    quantity: int
    currency: str
    user_id: int
    product_id: int
    zone: str
    today: date
    """The current day in `zone`."""
    product: str
    product_is_retired: bool
    name: str
    email: str
    phone: str | None
    """Only of owners who want text messages."""
    language: str
    country: str
    customer_is_deactivated: bool
    tax_rate: int
    """In basis points."""


@dataclass(frozen=True, slots=True)
class SubscriptionItem:
    """A subscription of a batch. After a permanent failure it is attempted again if its owner's address changes."""

    id: int
    email: str


def lock_subscription(database: Session, subscription_id: int, now: datetime) -> SubscriptionRow:
    """A subscription, locked for the caller's transaction.

    InvalidInput if it does not exist; psycopg's LockNotAvailable while another transaction has it.
    """
    with database.cursor(row_factory=class_row(SubscriptionRow)) as cursor:
        values = {"id": subscription_id, "now": now}
        row = cursor.execute(statement("subscriptions", "subscription_lock"), values).fetchone()
    if row is None:
        raise InvalidInput("subscription_id", f"there is no subscription {subscription_id}; give the id of one")
    return row
