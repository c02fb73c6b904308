"""### Processes what payment providers tell

Stripe and Razorpay post events to `/backline/hooks/stripe` and `/backline/hooks/razorpay`. Their signature is checked and they are
kept, each once, before they are answered; this job acts on them in the order in which they happened.

- **Money that came** makes its order paid; `subscription.charged` makes the subscription's order.
- **Late and out of order**: nothing moves back. Events of other types are kept and nothing else.
- **What waits**, for stock or for a row that is not there yet, is tried again every 15 minutes for a day. What comes to nothing fails
  the run once, so that people hear of it.
- **Runs** within seconds of an event, 1,000 events at a time; each harms only itself.
"""

from __future__ import annotations

from airflow.sdk import task

from backline.airflow.jobs import Requires, job_dag
from backline.airflow.payments import ingest_now
from backline.airflow.poller import watch_schedule

with job_dag(
    "ingest_payment_webhook",
    doc=__doc__,
    schedule=watch_schedule("payment_events", cron="3-59/15 * * * *"),
    requires=Requires(tables=("app.orders", "app.payments", "app.payment_events", "app.subscriptions")),
    max_active_runs=1,
    pool="payments",
    priority=8,
    queue="critical",
    tags=("commerce",),
):

    @task
    def ingest() -> dict[str, object]:
        """Processes the events that wait; returns how many by what became of them."""
        return ingest_now()

    ingest()
