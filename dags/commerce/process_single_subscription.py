"""### Renews one subscription, if it is active and due

Order, stock, next date and confirmation in one transaction. The result says what became of it: ordered, skipped,
deferred (out of stock), resumed, blocked, or that it is not due.

- **subscription_id**: which one.
- **Safe to repeat**: a cycle makes one order, however often and however many at once this runs.
"""

from __future__ import annotations

from airflow.sdk import Param, task

from backline.airflow.jobs import job_dag
from backline.airflow.subscriptions import NEEDS, renew_now

SUBSCRIPTION = Param(type="integer", minimum=1, title="Subscription", description="Its id.")

with job_dag(
    "process_single_subscription",
    doc=__doc__,
    params={"subscription_id": SUBSCRIPTION},
    requires=NEEDS,
    pool="orders",
    soft_limit_seconds=60,
    tags=("commerce",),
):

    @task
    def renew(params: dict[str, int]) -> dict[str, object]:
        """Renews it; returns what became of it."""
        return renew_now(params["subscription_id"])

    renew()
