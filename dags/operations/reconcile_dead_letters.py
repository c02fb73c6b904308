"""### Writes down every failure that nobody has told of, and alerts

Airflow calls back when a task fails, but not when its last try is killed, and a DAG file that cannot be imported runs
nothing at all. This job reads Airflow's REST API since its last look, writes one **dead letter** for each failed task,
failed run and import error that has none, and closes the letters of files that import again. Then it sends the alert
emails that are due: one a group of failures, however many they are.

- **Runs** within seconds of a failure (a watcher in the triggerer looks for them), and every 15 minutes in any case.
- **Safe to repeat**: each failure is one row, whoever writes it; each is told of once.
- **Settings**: `[alerts]` and `[dead_letters]` in `include/config/backline.toml`.
- **Deal with them**: `./backline dead-letters list`; docs/jobs.md.
"""

from __future__ import annotations

from airflow.sdk import task

from backline.airflow.dead_letters import run_reconcile, run_send_alerts
from backline.airflow.jobs import Requires, job_dag
from backline.airflow.poller import FAILURE_WATCH, watch_schedule

with job_dag(
    "reconcile_dead_letters",
    doc=__doc__,
    schedule=watch_schedule(FAILURE_WATCH, cron="1-59/15 * * * *"),
    requires=Requires(connections=("backline_airflow",)),
    max_active_runs=1,
    pool="monitoring",
    priority=8,
    queue="critical",
    soft_limit_seconds=120,
    retries=1,
    tags=("operations",),
) as dag:

    @task
    def reconcile() -> dict[str, int]:
        """Reads failed runs, failed tasks and import errors, and writes the dead letters that are missing."""
        return run_reconcile()

    @task(trigger_rule="all_done")
    def alert() -> dict[str, int]:
        """Sends the alert emails that are due."""
        return run_send_alerts()

    reconcile() >> alert()
