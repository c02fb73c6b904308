"""### Holds our payments against the provider's list

Each window begins some overlap before the last one's end, so that what came late is seen. Kinds of differences: missing
here, missing there, amount, currency, status, duplicate. Mended is only what is safe: money that the provider has for a
payment that we still wait for, the same to the cent. Everything is reported: a CSV file, a PDF with a chart, the run's
result; when something new is left, the recipients of `[alerts]` get a mail.

- **provider**: Stripe's list is asked of its API (connection `stripe_api`); Razorpay's is a file.
- **file**: the list as a CSV file in the folder `reconciliation.statement_folder`; for Razorpay the newest there if none is
  named. It stands for the time that it was written at.
- **days**: so many days before that, instead of the window that comes next.
- **dry_run**: reports, and mends nothing.
- **Bounded**: 100 differences mended a run (`[reconciliation]` in `include/config/backline.toml`).
"""

from __future__ import annotations

from airflow.sdk import Param, task

from backline.airflow.jobs import Requires, job_dag
from backline.airflow.reconciliation import reconcile_now

with job_dag(
    "reconcile_payments",
    doc=__doc__,
    schedule="41 * * * *",
    params={
        "provider": Param("stripe", enum=["stripe", "razorpay"], title="Provider", description="Whose list."),
        "file": Param(None, type=["null", "string"], title="File", description="Its name in the folder of lists."),
        "days": Param(
            None, type=["null", "number"], exclusiveMinimum=0, maximum=366, title="Days", description="How far back."
        ),
        "dry_run": Param(False, type="boolean", title="Dry run", description="Only report."),
    },
    requires=Requires(tables=("app.payments", "app.payment_attempts", "app.orders")),
    max_active_runs=1,
    pool="payments",
    priority=2,
    tags=("commerce",),
) as dag:

    @task
    def reconcile(params: dict[str, object]) -> dict[str, object]:
        """Compares, mends what is safe, writes the report, tells operators; returns the counts."""
        return reconcile_now(**params)

    reconcile()
