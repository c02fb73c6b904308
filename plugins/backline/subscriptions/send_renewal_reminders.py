"""Reminds owners of subscriptions that renew tomorrow in the subscription's own zone, once for each cycle."""

from __future__ import annotations

from backline.db.statements import statement
from backline.jobs.batch import BatchResult
from backline.jobs.job import Job
from backline.messages import registry
from backline.messages.fitting import fit
from backline.subscriptions.process_single_subscription import SubscriptionItem, lock_subscription
from backline.subscriptions.rules import cycle_to_remind, line_amounts, price_of
from backline.subscriptions.settings import SubscriptionSettings


def send_renewal_reminders(job: Job[SubscriptionSettings]) -> BatchResult:
    """Send up to `reminder_batch_limit` reminders."""
    subscriptions = job.scan(statement("subscriptions", "subscriptions_to_remind"), SubscriptionItem, {"now": job.now})
    limit = job.settings.reminder_batch_limit
    return job.run_each(subscriptions, lambda item: _remind(job, item.id), limit=limit)


def _remind(job: Job[SubscriptionSettings], subscription_id: int) -> str:
    """Store that the owner is reminded, and enqueue the message, in one transaction."""
    row = lock_subscription(job.database, subscription_id, job.now)
    cycle_on = cycle_to_remind(row, row.reminded_cycle_on, row.today)
    if cycle_on is None or row.customer_is_deactivated or row.product_is_retired:
        return "not_due"
    values = {"id": subscription_id, "cycle_on": cycle_on}
    job.database.execute(statement("subscriptions", "subscription_mark_reminded"), values)
    amount = sum(line_amounts(row.quantity, price_of(row, cycle_on)[0], row.tax_rate))
    payload = {
        "name": row.name, "language": row.language, "product": row.product, "renews_on": cycle_on.isoformat(),
        "amount": amount, "currency": row.currency, "manage_url": job.settings.manage_url,
    }  # fmt: skip
    key = f"subscription:{row.id}:{cycle_on}:reminder"
    kind = registry.get("subscription_renewal_reminder")
    job.enqueue(kind.type_name, row.email, fit(kind, payload), key=key)
    return "reminded"
