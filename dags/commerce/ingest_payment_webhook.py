"""### Processes the events of payment providers

Stripe and Razorpay post events to `/backline/hooks/stripe` and `/backline/hooks/razorpay`. Each is verified and stored, once,
before the request is answered; this job applies them in the order in which they occurred.

- **A captured payment** marks its order paid; `subscription.charged` creates the subscription's order.
- **Late and out of order** events never move a payment back. Events of other types are only stored.
- **Not ready**: an event that needs stock, or a row that does not exist yet, is attempted every 15 minutes for a day.
- **Failed**: an event that can never be applied becomes a dead letter; the others go on. Discard the letter when the
  payment is settled by hand, or replay it.
- **Runs** within seconds of an event, 1,000 events at a time.
"""

from __future__ import annotations

from backline.airflow.jobs import Requires, job_dag, job_task
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
    job_task("backline.payments.ingest_payment_webhook")
