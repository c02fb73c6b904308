"""### Records failures that no callback has reported, and sends alerts

Airflow calls back when a task fails, but not when its last attempt is killed, and a DAG file that cannot be imported runs
nothing at all. This job reads Airflow's REST API from where its last run ended. It writes one **dead letter** for each
failed task, failed run and import error that has none, and resolves those of files that import again. Then it sends the
alert emails that are due: one per group of failures, however many they are.

- **Runs** within seconds of a failure, started by a watcher in the triggerer, and every 15 minutes in any case.
- **Safe to repeat**: each failure is one row, whoever writes it, and is reported in one email.
- **Settings**: `[alerts]` and `[dead_letters]` in `include/config/backline.toml`.
- **What to do with dead letters**: `./backline dead-letters list`; docs/jobs.md.
"""

from __future__ import annotations

from backline.airflow.jobs import Requires, job_dag, job_task
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
):
    reconciled = job_task("backline.dead_letters.reconcile_dead_letters")
    alerts = job_task("backline.dead_letters.alerts:send_due_alerts", stores_result=False, trigger_rule="all_done")
    reconciled >> alerts
