"""### Advances orders whose processing has stopped

Finds orders that stay in a state before *confirmed* (no run was started, the run was killed, the payment was captured or
abandoned) and processes each like `process_order`. Orders that wait for their customer, or for the next attempt of their
payment, are left alone until the payment is overdue (`orders.payment_timeout_hours`); then they are cancelled and their stock
is released.

Then it finds **stuck** orders, which have been in their state for longer than `orders.stuck_hours` allows, shipped ones included:
the result has them, and the recipients of `[alerts]` get an email, once a day for the same counts.

- **Bounded**: `orders.batch_limit` orders a run. After five transient failures in a row the rest is left to the next attempt.
- **Isolated**: an order that fails for good becomes a dead letter and is left out until that is closed or the order changes.
"""

from __future__ import annotations

from backline.airflow.jobs import Requires, job_dag, job_task
from backline.payments.settings import PaymentSettings
from backline.settings import settings

CONNECTION = settings().section(PaymentSettings).connection

with job_dag(
    "process_pending_orders",
    doc=__doc__,
    schedule="7-59/15 * * * *",
    requires=Requires(connections=(CONNECTION,), tables=("app.orders", "app.products", "app.payments")),
    max_active_runs=1,
    pool="orders",
    soft_limit_seconds=800,
    retries=1,
    result_ttl_seconds=86_400,
    tags=("commerce",),
):
    job_task("backline.orders.process_pending_orders")
