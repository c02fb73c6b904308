"""### Renews one subscription, if it is active and due

Order, stock, next cycle and confirmation in one transaction. The result has the outcome: ordered, skipped, deferred (out of
stock), resumed, blocked, not_due and so on.

- **subscription_id**: which one.
- **Safe to repeat**: a cycle gets one order, however many runs there are.
"""

from __future__ import annotations

from airflow.sdk import Param

from backline.airflow.jobs import Requires, job_dag, job_task

TABLES = ("app.subscriptions", "app.users", "app.products", "app.orders", "app.order_lines")

with job_dag(
    "process_single_subscription",
    doc=__doc__,
    params={"subscription_id": Param(type="integer", minimum=1, title="Subscription", description="Its id.")},
    requires=Requires(tables=TABLES),
    pool="orders",
    soft_limit_seconds=60,
    tags=("commerce",),
):
    job_task("backline.subscriptions.process_single_subscription")
