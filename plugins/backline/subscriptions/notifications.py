"""What owners of subscriptions are told, each in the transaction of what it tells of."""

from __future__ import annotations

from datetime import date

from backline.db.connect import Session
from backline.outbox.submission import enqueue
from backline.subscriptions.repository import Row
from backline.subscriptions.settings import SubscriptionSettings


def enqueue_order_confirmation(connection: Session, row: Row, order: Row, config: SubscriptionSettings) -> None:
    """The order of a cycle: by email, and by text message to those who want texts."""
    recipient = {"email": row["email"], **({"sms": row["phone"]} if row["phone"] else {})}
    payload = {
        "name": row["name"],
        "language": row["language"],
        "zone": row["zone"],
        "order": order["number"],
        "placed_at": order["placed_at"].isoformat(),
        "lines": [
            {"description": row["product"], "quantity": row["quantity"], "unit_price": order["unit_price_minor"]}
        ],
        "currency": row["currency"],
        "tax": order["tax_minor"],
        "total": order["total_minor"],
        "order_url": config.order_url.replace("{order}", order["number"]),
    }
    enqueue(connection, "order_confirmation", recipient, payload, key=f"order-{order['number']}")


def enqueue_deferral(
    connection: Session, subscription_id: int, row: Row, cycle_on: date, config: SubscriptionSettings
) -> None:
    """That a cycle waits for its stock, on the day on which that began."""
    context = {"name": row["name"], "product": row["product"], "manage_url": config.manage_url}
    payload = {"template": "subscription_deferred", "language": row["language"], "context": context}
    key = f"subscription-{subscription_id}-{cycle_on}-deferred-{row['today']}"
    enqueue(connection, "templated_email", row["email"], payload, key=key)


def enqueue_reminder(
    connection: Session, subscription_id: int, row: Row, cycle_on: date, amount_minor: int, config: SubscriptionSettings
) -> None:
    """That a cycle comes tomorrow, and what it costs, tax included."""
    payload = {
        "name": row["name"],
        "language": row["language"],
        "product": row["product"],
        "renews_on": cycle_on.isoformat(),
        "amount": amount_minor,
        "currency": row["currency"],
        "manage_url": config.manage_url,
    }
    key = f"subscription-{subscription_id}-{cycle_on}-reminder"
    enqueue(connection, "subscription_renewal_reminder", row["email"], payload, key=key)
