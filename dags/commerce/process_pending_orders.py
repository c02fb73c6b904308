"""### Moves orders along that have stopped on their way

Looks for orders that rest in a state before *confirmed* (nobody has started them, their run was killed, their payment has
come or was given up) and processes each as `run_saga` does. Orders that wait for their customer, or for the next try of
their payment, are left alone until their payment is late (`orders.payment_timeout_hours`); then they are cancelled and their stock is
given back.

Then it looks for **stuck** orders, those in their state for longer than `orders.stuck_hours` allows, shipped ones included:
they are in the result, and the recipients of `[alerts]` get a mail, once a day for the same numbers.

- **Bounded**: `orders.batch_limit` orders a run, those that rest longest first. After five transient failures in a row the far side
  is taken to be away, and the rest is left to the next run.
- **Isolated**: what goes wrong with one order is in the result, and harms no other.
"""

from __future__ import annotations

from airflow.sdk import task

from backline.airflow.jobs import Requires, job_dag
from backline.airflow.orders import process_pending_now
from backline.airflow.payments import CONNECTION

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
) as dag:

    @task
    def process() -> dict[str, object]:
        """Processes each; returns how many ended how, what failed, and which are stuck."""
        return process_pending_now()

    process()
