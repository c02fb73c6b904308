"""### Tries declined payments again

Soft declines are tried again as the dunning schedule says (`[payments] dunning_hours`: after 1, 3, 5 and 7 days), then they are
given up and the customer is told. Hard ones are never tried again. Tries that a dead process left without an end are settled.

- **Large amounts** (`approval_above`) wait for a person: Airflow's page *Required Actions* asks once a try. Rejected ones are given
  up; those that nobody answers within `approval_timeout_hours` are asked about again.
- **Bounded**: 500 payments a run (`batch_limit`); each that goes wrong harms only itself.
- **auto_decision**: `approve` or `reject` answers in people's place, as for `airflow dags test`.
"""

from __future__ import annotations

from airflow.sdk import Param, task

from backline.airflow.jobs import Requires, job_dag
from backline.airflow.payments import CONNECTION, Planned, asking, plan_now, questions_of, retry_now

AUTO = Param(
    "", type="string", enum=["", "approve", "reject"], title="Auto decision", description="Empty: people are asked."
)

with job_dag(
    "retry_failed_payments",
    doc=__doc__,
    schedule="*/30 * * * *",
    params={"auto_decision": AUTO},
    requires=Requires(connections=(CONNECTION,), tables=("app.orders", "app.payments", "app.payment_attempts")),
    max_active_runs=64,  # runs that wait for people, for a day at most, must not keep the next ones from starting
    pool="payments",
    tags=("commerce",),
):

    @task
    def plan(params: dict[str, str]) -> Planned:
        """Finds what is due, and what people must be asked about."""
        return plan_now(params["auto_decision"])

    @task
    def retry(planned: Planned) -> dict[str, object]:
        """Makes the tries that need no answer."""
        return retry_now(planned)

    @task
    def questions(planned: Planned) -> list[dict[str, object]]:
        """One for each large payment."""
        return questions_of(planned)

    planned = plan()
    retry(planned)
    asking(questions(planned))
