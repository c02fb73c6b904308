"""### Issues invoices and credit notes, and makes their PDF files

A paid order gets its invoice, a refunded one its credit note: numbered without gaps in each series, once, whoever asks and
however often. The PDF (PDF/A-3a) goes to the folder `invoices.folder` and, for a payment of the last days, to the customer
with the `payment_receipt` message. An order that has its papers already gets the same files again.

- **order_id**: this order. Without one: the paid and refunded orders of the last days that lack something, earliest first,
  200 a run at most (`[invoices]` in `include/config/backline.toml`); one that fails harms no other.
- **Started** by the watch `orders_paid`, by hand or API, and every quarter of an hour in case an event was lost.
"""

from __future__ import annotations

from airflow.sdk import Param, task

from backline.airflow.invoices import make_now
from backline.airflow.jobs import Requires, job_dag
from backline.airflow.poller import watch_schedule

ORDER = Param(
    None, type=["null", "integer"], minimum=1, title="Order", description="Its id; empty: all that lack papers."
)

with job_dag(
    "generate_invoice",
    doc=__doc__,
    schedule=watch_schedule("orders_paid", cron="5-59/15 * * * *"),
    params={"order_id": ORDER},
    requires=Requires(tables=("app.orders", "app.invoices", "app.invoice_documents")),
    pool="payments",
    tags=("commerce",),
) as dag:

    @task
    def make(params: dict[str, int | None]) -> dict[str, object]:
        """Issues numbers, writes the files, sends receipts; returns what was made."""
        return make_now(params["order_id"])

    make()
