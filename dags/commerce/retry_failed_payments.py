"""### Attempts declined payments again

Soft declines are attempted again by the dunning schedule (`[payments] dunning_days`: 1, 3, 5 and 7 days after the first
decline); then the payment is abandoned and the customer is notified. Hard declines are never attempted again. Attempts that a
dead process left without a result are settled first.

- **Large amounts** (`approval_above`) wait for a person: Airflow's page *Required Actions* asks once for each attempt. A rejected
  payment is abandoned; a request without an answer within `approval_timeout_hours` is repeated.
- **Bounded**: 500 payments a run (`batch_limit`), and requests for approval by Airflow's `core.max_map_length`; the next run
  makes the others. A payment that fails for good becomes a dead letter; the others go on.
- **auto_decision**: `approve` or `reject` answers all requests without asking, for example in `airflow dags test`.
"""

from __future__ import annotations

from airflow.sdk import Param

from backline.airflow.approvals import ask_approval
from backline.airflow.jobs import Requires, job_dag, job_task
from backline.payments.settings import PaymentSettings
from backline.settings import settings

JOB = "backline.payments.retry_failed_payments"
CONFIG = settings().section(PaymentSettings)
DECISION = Param("", type="string", enum=["", "approve", "reject"], description="Empty: people are asked.")
TABLES = ("app.orders", "app.payments", "app.payment_attempts")

with job_dag(
    "retry_failed_payments",
    doc=__doc__,
    schedule="*/30 * * * *",
    params={"auto_decision": DECISION},
    requires=Requires(connections=(CONFIG.connection,), tables=TABLES),
    max_active_runs=64,  # runs that wait for an answer must not block the next ones
    pool="payments",
    tags=("commerce",),
):
    requests = job_task(f"{JOB}:request_approvals", stores_result=False)
    requests >> job_task(JOB)
    question, hours = "Attempt the payment of a large order again?", CONFIG.approval_timeout_hours
    ask_approval(requests.output, f"{JOB}:decide", subject=question, timeout_hours=hours)
