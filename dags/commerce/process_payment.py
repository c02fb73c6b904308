"""### Charges an order

Charges a reserved order at Stripe and stores the outcome: **paid**, **declined** or **needs_action**. The same transaction
enqueues the customer's receipt, or the message about what to do next.

- **order_id**: the order.
- **Safe to repeat**: an order is charged once, even if a process dies at any point; a paid order does not change.
- **Declines are final** here; `retry_failed_payments` attempts soft ones again. Network failures are retried.
- **Needs** the connection `stripe_api` (`[payments]` in `include/config/backline.toml`).
"""

from __future__ import annotations

from airflow.sdk import Param

from backline.airflow.jobs import Requires, job_dag, job_task
from backline.payments.settings import PaymentSettings
from backline.settings import settings

CONNECTION = settings().section(PaymentSettings).connection

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
    job_task("backline.payments.process_payment")
