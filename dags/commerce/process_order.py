"""### Processes one order: validate, reserve, pay, confirm

Takes an order from placed to confirmed: checks that it can be served and its customer be told, sets its stock aside, takes
its money, confirms it. Each step is one transaction, and the order's state says which is next, so a run that was killed, or
two at once, change nothing twice: start it again and it goes on.

A step that is **refused for good** (not in stock, a hard decline, a closed account) is compensated in reverse: the money goes
back, then the stock, and the customer is told why. A payment that is tried again later, or that the customer must confirm,
leaves the order **waiting**; `process_pending_orders` takes it from there. A provider that is away is retried.

- **Result**: the order's number, its state, how it ended (confirmed, waiting, cancelled, refunded, nothing to do) and why.
- **Needs** the connection `stripe_api` (`[payments]` in `include/config/backline.toml`).
"""

from __future__ import annotations

from airflow.sdk import Param, task

from backline.airflow.jobs import Requires, job_dag
from backline.airflow.orders import process_now
from backline.airflow.payments import CONNECTION

with job_dag(
    "process_order",
    doc=__doc__,
    params={
        "order_id": Param(
            type="integer", minimum=1, title="Order id", description="Its id in the app's table of orders."
        )
    },
    requires=Requires(connections=(CONNECTION,), tables=("app.orders", "app.products", "app.payments")),
    pool="orders",
    priority=8,
    retries=5,
    soft_limit_seconds=120,
    result_ttl_seconds=86_400,
    tags=("commerce",),
) as dag:

    @task
    def process(params: dict[str, int]) -> dict[str, str]:
        """Moves the order as far as it goes; returns what became of it."""
        return process_now(params["order_id"])

    process()
