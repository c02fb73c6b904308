"""### Issues invoices and credit notes and generates their PDF files

A paid order gets one invoice, a refunded order one credit note; numbers have no gaps in each series. The PDF (PDF/A-3a) is
written to the folder `invoices.folder` and, for recent payments, sent to the customer with the `payment_receipt` message.
Generating a document again gives the same file.

- **order_id**: only this order. Without it: the recently paid and refunded orders that lack a document or its file, by id,
  200 a run at most (`[invoices]` in `include/config/backline.toml`).
- **An order that fails** does not affect the others: it becomes a dead letter, and later runs skip it until that is resolved.
- **Started** by the watch `orders_paid`, by hand or API, and every 15 minutes in case an event was lost.
"""

from __future__ import annotations

from airflow.sdk import Param

from backline.airflow.jobs import Requires, job_dag, job_task
from backline.airflow.poller import watch_schedule

ORDER = Param(
    None, type=["null", "integer"], minimum=1, title="Order", description="Its id; empty: all that lack documents."
)

with job_dag(
    "generate_invoice",
    doc=__doc__,
    schedule=watch_schedule("orders_paid", cron="5-59/15 * * * *"),
    params={"order_id": ORDER},
    requires=Requires(tables=("app.orders", "app.invoices", "app.invoice_documents")),
    pool="payments",
    tags=("commerce",),
):
    job_task("backline.invoices.generate_invoice")
