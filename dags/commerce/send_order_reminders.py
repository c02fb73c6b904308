"""### Reminds customers of their orders, once an order and stage

- **payment_missing**, **payment_missing_again**: the stock is set aside, and a day and two days later the money has not come.
- **review**: delivered a week ago, and no longer than a month.

The times are in `[orders]` of `include/config/backline.toml`. A stage is noted in the same transaction as its message, so that
nobody is reminded twice, however often and by how many it is run. A stage whose time is over is left out: whoever starts
Backline on an old shop mails nobody about orders of last year.

- **Bounded**: `orders.batch_limit` customers a stage and run; the result says when there are more.
"""

from __future__ import annotations

from airflow.sdk import task

from backline.airflow.jobs import Requires, job_dag
from backline.airflow.orders import send_reminders_now

with job_dag(
    "send_order_reminders",
    doc=__doc__,
    schedule="20 */6 * * *",
    requires=Requires(tables=("app.orders", "app.order_reminders")),
    max_active_runs=1,
    pool="orders",
    priority=2,
    result_ttl_seconds=86_400,
    tags=("commerce",),
) as dag:

    @task
    def remind() -> dict[str, object]:
        """Notes and enqueues each reminder; returns how many went out at each stage."""
        return send_reminders_now()

    remind()
