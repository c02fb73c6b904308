"""The messages about subscriptions, each enqueued in the transaction that it reports."""

from __future__ import annotations

from datetime import date, datetime

from backline.db.connect import Session
from backline.outbox.submission import enqueue
from backline.subscriptions.repository import SubscriptionRow
from backline.subscriptions.settings import SubscriptionSettings


def enqueue_order_confirmation(
    database: Session, row: SubscriptionRow, config: SubscriptionSettings, *, number: str, placed_at: datetime,
    unit_price_minor: int, tax_minor: int, total_minor: int,
) -> None:  # fmt: skip
    """Confirm the order of a cycle: by email, and by text message to owners who want that."""
    recipient = {"email": row.email, **({"sms": row.phone} if row.phone else {})}
    payload = {
        "name": row.name, "language": row.language, "zone": row.zone, "order": number, "currency": row.currency,
        "placed_at": placed_at.isoformat(), "tax": tax_minor, "total": total_minor,
        "lines": [{"description": row.product, "quantity": row.quantity, "unit_price": unit_price_minor}],
        "order_url": config.order_url.replace("{order}", number),
    }  # fmt: skip
    enqueue(database, "order_confirmation", recipient, payload, key=f"order-{number}")


def enqueue_deferral(database: Session, row: SubscriptionRow, cycle_on: date, config: SubscriptionSettings) -> None:
    """Tell the owner that a cycle waits for stock."""
    context = {"name": row.name, "product": row.product, "manage_url": config.manage_url}
    payload = {"template": "subscription_deferred", "language": row.language, "context": context}
    key = f"subscription-{row.id}-{cycle_on}-deferred-{row.today}"
    enqueue(database, "templated_email", row.email, payload, key=key)


def enqueue_reminder(
    database: Session, row: SubscriptionRow, cycle_on: date, amount_minor: int, config: SubscriptionSettings
) -> None:
    """Remind the owner of a cycle and its price, tax included."""
    payload = {
        "name": row.name, "language": row.language, "product": row.product, "renews_on": cycle_on.isoformat(),
        "amount": amount_minor, "currency": row.currency, "manage_url": config.manage_url,
    }  # fmt: skip
    key = f"subscription-{row.id}-{cycle_on}-reminder"
    enqueue(database, "subscription_renewal_reminder", row.email, payload, key=key)
