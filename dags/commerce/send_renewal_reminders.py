"""### Reminds customers of tomorrow's renewals

The owner of a subscription that renews tomorrow, in the subscription's own zone, gets one message with product, day and amount.
The job runs soon after the renewals of today, so the reminder comes about 24 hours before the order.

- **Once**: the reminder is stored in the same transaction as its message.
- **Bounded**: `reminder_batch_limit` of `[subscriptions]` in `include/config/backline.toml`.
- **Isolated**: a subscription that fails for good becomes a dead letter; the others are reminded.
"""

from __future__ import annotations

from backline.airflow.jobs import Requires, job_dag, job_task

with job_dag(
    "send_renewal_reminders",
    doc=__doc__,
    schedule="15 0 * * *",
    requires=Requires(tables=("app.subscriptions", "app.users", "app.products")),
    max_active_runs=1,
    pool="orders",
    result_ttl_seconds=7 * 86_400,
    tags=("commerce",),
):
    job_task("backline.subscriptions.send_renewal_reminders")
