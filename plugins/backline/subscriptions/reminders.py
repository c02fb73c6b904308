"""Who has a renewal tomorrow, on their own calendar, is told so once."""

from __future__ import annotations

from datetime import datetime

from backline.db.connect import translated
from backline.db.session import Session
from backline.db.statements import statement
from backline.subscriptions import messages
from backline.subscriptions.rounds import Tally, each_alone
from backline.subscriptions.rows import facts, lock
from backline.subscriptions.rules import amounts, cycle_to_announce, price_of
from backline.subscriptions.settings import SubscriptionSettings

REMINDED = "reminded"
NOT_DUE = "not_due"


def send_reminders(connection: Session, now: datetime, config: SubscriptionSettings) -> Tally:
    """Remind all of that moment, each in a transaction of its own; `config.reminders_at_most` of them.

    Doing it again reminds nobody twice. DatabaseFailure if the database goes away meanwhile; what is done stays done.
    """
    values = {"now": now, "most": config.reminders_at_most}
    with translated():
        rows = connection.execute(statement("subscriptions", "subscriptions_to_remind"), values).fetchall()
    return each_alone(connection, [row["id"] for row in rows], lambda one: remind(connection, one, now, config))


def remind(connection: Session, subscription_id: int, now: datetime, config: SubscriptionSettings) -> str:
    """Remind of one subscription if it renews tomorrow: `REMINDED` or `NOT_DUE`; errors as of `renewal.renew`."""
    with translated(), connection.transaction():
        row = lock(connection, subscription_id, now)
        subscription = facts(row)
        cycle_on = cycle_to_announce(subscription, row["reminded_for"], row["today"])
        if cycle_on is None or row["customer_is_gone"] or row["product_is_gone"]:
            return NOT_DUE
        amount = sum(amounts(row["quantity"], price_of(subscription, cycle_on)[0], row["tax_rate"]))
        connection.execute(
            statement("subscriptions", "subscription_remind"), {"id": subscription_id, "cycle_on": cycle_on}
        )
        messages.remind(connection, subscription_id, row, cycle_on, amount, config)
        return REMINDED
