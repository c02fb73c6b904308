"""One subscription as the database has it, locked."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from backline.db.connect import Session
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.subscriptions.rules import Subscription

Row = dict[str, Any]


def lock_subscription(connection: Session, subscription_id: int, now: datetime) -> Row:
    """All that is asked of one subscription, in the caller's transaction.

    InvalidInput if there is none; psycopg's LockNotAvailable while somebody else is at it.
    """
    row = connection.execute(
        statement("subscriptions", "subscription_lock"), {"id": subscription_id, "now": now}
    ).fetchone()
    if row is None:
        raise InvalidInput("subscription_id", f"there is no subscription {subscription_id}; give the id of one that is")
    return row


def to_subscription(row: Row) -> Subscription:
    """What the rules ask of it."""
    return Subscription(
        state=row["state"],
        anchor_day=row["anchor_day"],
        interval_months=row["interval_months"],
        next_on=row["next_on"],
        skip_next=row["skip_next"],
        retry_on=row["retry_on"],
        resume_on=row["resume_on"],
        unit_price_minor=row["unit_price_minor"],
        new_price_minor=row["new_price_minor"],
        new_price_from=row["new_price_from"],
    )
