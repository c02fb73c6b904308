"""### Compares payments with the provider's statement and fixes only safe discrepancies

Each window overlaps the one before, so that late payments are compared too. Kinds of discrepancies: missing here, missing
there, amount, currency, status, duplicate. Only one is fixed: the provider has captured exactly the amount of a payment that
is still open here. Everything is reported: a CSV file, a PDF with a chart, the run's result; the recipients of `[alerts]` get
an email about new discrepancies that need review.

- **provider**: Stripe's payments are read from its API (connection `stripe_api`), Razorpay's from a CSV file.
- **file**: a CSV file in the folder `reconciliation.statement_folder`; for Razorpay by default the newest. Its modification
  time is the statement's time.
- **days**: the window's length back from that time, instead of the window that follows the last one.
- **dry_run**: reports, and fixes nothing.
- **Bounded**: 100 discrepancies fixed per run (`[reconciliation]` in `include/config/backline.toml`).
"""

from __future__ import annotations

from airflow.sdk import Param

from backline.airflow.jobs import Requires, job_dag, job_task

with job_dag(
    "reconcile_payments",
    doc=__doc__,
    schedule="41 * * * *",
    params={
        "provider": Param("stripe", enum=["stripe", "razorpay"], title="Provider"),
        "file": Param(None, type=["null", "string"], title="File", description="Name of a CSV file in the folder."),
        "days": Param(
            None, type=["null", "number"], exclusiveMinimum=0, maximum=366, title="Days", description="Window length."
        ),
        "dry_run": Param(False, type="boolean", title="Dry run", description="Only report."),
    },
    requires=Requires(tables=("app.payments", "app.payment_attempts", "app.orders")),
    max_active_runs=1,
    pool="payments",
    priority=2,
    tags=("commerce",),
):
    job_task("backline.reconciliation.reconcile_payments")
