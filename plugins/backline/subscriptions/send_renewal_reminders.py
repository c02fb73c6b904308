"""Who has a renewal tomorrow, on their own calendar, is told so once."""

from __future__ import annotations

from datetime import datetime

from backline.db.connect import Session, translate_errors
from backline.db.statements import statement
from backline.subscriptions import notifications
from backline.subscriptions.process_due_subscriptions import BatchResult, run_each
from backline.subscriptions.repository import lock_subscription, to_subscription
from backline.subscriptions.rules import cycle_to_remind, line_amounts, price_of
from backline.subscriptions.settings import SubscriptionSettings

REMINDED = "reminded"
NOT_DUE = "not_due"


def send_reminders(connection: Session, now: datetime, config: SubscriptionSettings) -> BatchResult:
    """Remind all of that moment, each in a transaction of its own; `config.reminders_at_most` of them.

    Doing it again reminds nobody twice. DatabaseFailure if the database goes away meanwhile; what is done stays done.
    """
    values = {"now": now, "batch_limit": config.reminder_batch_limit}
    with translate_errors():
        rows = connection.execute(statement("subscriptions", "subscriptions_to_remind"), values).fetchall()
    return run_each(connection, [row["id"] for row in rows], lambda one: send_reminder(connection, one, now, config))


def send_reminder(connection: Session, subscription_id: int, now: datetime, config: SubscriptionSettings) -> str:
    """Remind of one subscription if it renews tomorrow: `REMINDED` or `NOT_DUE`; errors as of `renewal.renew`."""
    with translate_errors(), connection.transaction():
        row = lock_subscription(connection, subscription_id, now)
        subscription = to_subscription(row)
        cycle_on = cycle_to_remind(subscription, row["reminded_cycle_on"], row["today"])
        if cycle_on is None or row["customer_is_deactivated"] or row["product_is_retired"]:
            return NOT_DUE
        amount = sum(line_amounts(row["quantity"], price_of(subscription, cycle_on)[0], row["tax_rate"]))
        connection.execute(
            statement("subscriptions", "subscription_mark_reminded"), {"id": subscription_id, "cycle_on": cycle_on}
        )
        notifications.enqueue_reminder(connection, subscription_id, row, cycle_on, amount, config)
        return REMINDED
