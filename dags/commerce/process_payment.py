"""### Charges an order

Charges an order that is reserved, by Stripe, and writes down how it ended: **paid**, **declined** or **needs_action**. In the
same transaction the customer's receipt, or what to do about the decline, is enqueued.

- **order_id**: the order.
- **Safe to repeat**: an order is charged once, whatever dies in between; one that is paid stays as it is.
- **Declines are final** here; `retry_failed_payments` tries soft ones again. Networks and busy providers are retried.
- **Needs** the connection `stripe_api` (`[payments]` in `include/config/backline.toml`).
"""

from __future__ import annotations

from airflow.sdk import Param, task

from backline.airflow.jobs import Requires, job_dag
from backline.airflow.payments import CONNECTION, charge_now

with job_dag(
    "process_payment",
    doc=__doc__,
    params={"order_id": Param(type="integer", minimum=1, title="Order", description="Its id in app.orders.")},
    requires=Requires(connections=(CONNECTION,), tables=("app.orders", "app.payments", "app.payment_attempts")),
    pool="payments",
    priority=10,
    queue="critical",
    soft_limit_seconds=180,
    tags=("commerce",),
):

    @task
    def charge(params: dict[str, int]) -> dict[str, object]:
        """Charges the order, or finds out that it was charged."""
        return charge_now(params["order_id"])

    charge()
