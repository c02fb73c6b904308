"""### Reminds customers of their orders, once for each order and stage

- **payment_missing**, **payment_missing_again**: the stock is reserved, and one and two days later the order is not paid.
- **review**: delivered a week ago, and no longer than a month.

The times are in `[orders]` of `include/config/backline.toml`. The reminder is stored in the same transaction as its message, so
overlapping and repeated runs remind nobody twice. A stage whose time is over is left out: a shop that starts to use
Backline sends no reminders of last year's orders.

- **Bounded**: `orders.reminder_batch_limit` reminders a run; the result says when the limit was reached.
- **Isolated**: a customer who cannot be reminded becomes a dead letter; the others are reminded.
"""

from __future__ import annotations

from backline.airflow.jobs import Requires, job_dag, job_task

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
):
    job_task("backline.orders.send_order_reminders")
