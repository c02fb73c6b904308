"""### Reminds people of tomorrow's renewals

Who has a subscription that renews tomorrow, on the calendar of its own zone, is told so once: product, day and amount.
It runs soon after the renewals of today, so the reminder comes about 24 hours ahead of the order.

- **Once**: the reminder and the note of it are one transaction.
- **Bounded**: `reminder_batch_limit` of `[subscriptions]` in `include/config/backline.toml`.
- **One failure harms only itself**: the others are reminded, and the task fails and names those that failed.
"""

from __future__ import annotations

from airflow.sdk import task

from backline.airflow.jobs import job_dag
from backline.airflow.subscriptions import NEEDS, remind_now

with job_dag(
    "send_renewal_reminders",
    doc=__doc__,
    schedule="15 0 * * *",
    requires=NEEDS,
    max_active_runs=1,
    pool="orders",
    result_ttl_seconds=7 * 86_400,
    tags=("commerce",),
):

    @task
    def remind() -> dict[str, object]:
        """Sends the reminders; returns how many."""
        return remind_now()

    remind()
