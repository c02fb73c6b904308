"""### Processes one order: validate, reserve, pay, confirm

Advances an order from placed to confirmed: checks that it can be delivered and its customer notified, reserves its stock,
charges it, confirms it. Each step is one transaction, and the order's state says which is next: a killed run, or two
overlapping ones, do nothing twice. Start the job again and it continues.

A step that is **refused for good** (not in stock, a hard decline, a closed account) is compensated in reverse: the payment is
refunded, then the stock is released, and the customer is told why. An order whose payment is attempted again later, or needs
the customer, is left **waiting**; `process_pending_orders` continues it. Failures of the provider are retried.

- **Result**: the order's number, its state, the outcome (confirmed, waiting, cancelled, refunded, nothing_to_do) and the reason.
- **Needs** the connection `stripe_api` (`[payments]` in `include/config/backline.toml`).
"""

from __future__ import annotations

from airflow.sdk import Param

from backline.airflow.jobs import Requires, job_dag, job_task
from backline.payments.settings import PaymentSettings
from backline.settings import settings

CONNECTION = settings().section(PaymentSettings).connection
ORDER = Param(type="integer", minimum=1, title="Order", description="Its id in the app's table of orders.")

with job_dag(
    "process_order",
    doc=__doc__,
    params={"order_id": ORDER},
    requires=Requires(connections=(CONNECTION,), tables=("app.orders", "app.products", "app.payments")),
    pool="orders",
    priority=8,
    retries=5,
    soft_limit_seconds=120,
    result_ttl_seconds=86_400,
    tags=("commerce",),
):
    job_task("backline.orders.process_order")
