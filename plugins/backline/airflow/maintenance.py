"""Maintenance outside Airflow, in reach of its metadata database: `python -m backline.airflow.maintenance`.

Its environment (`./backline env`) holds the addresses of the databases and the login to Airflow.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backline.airflow_api import AirflowClient
from backline.errors import BacklineError
from backline.jobs.results import prune_results
from backline.outbox.maintenance import run_maintenance

log = logging.getLogger("backline.maintenance")

OUTBOX_INTERVAL_SECONDS = 60.0
METADATA_INTERVAL_SECONDS = 6 * 3600.0
"""Each time costs about four seconds of CPU: `airflow db clean` starts twice."""
METADATA_INITIAL_DELAY_SECONDS = 1800.0
"""Leaves the machine to the services while they start."""
RUN_RETENTION_DAYS = 3
LOG_RETENTION_DAYS = 30
RUN_TABLES = "dag_run,asset_event,job,revoked_token"
"""Never add `trigger`: that would delete the triggers that start dispatchers and jobs."""


def prune_airflow(now: datetime, environ: Mapping[str, str]) -> None:
    """Delete Airflow's old runs, events and log files. A BacklineError, and nothing is deleted, if its API fails."""
    with AirflowClient(environ["BACKLINE_URL"], environ["BACKLINE_USER"], environ["BACKLINE_PASSWORD"]) as api:
        waiting_dags = api.dags_with_unfinished_runs(now - timedelta(days=RUN_RETENTION_DAYS))
    prune_metadata(now, waiting_dags)
    log.info("deleted %d old log files", prune_task_logs(Path(environ["AIRFLOW__LOGGING__BASE_LOG_FOLDER"]), now))


def prune_metadata(now: datetime, waiting_dags: set[str]) -> None:
    """Delete old runs, asset events and event log entries; keeps the runs of DAGs with an old unfinished run."""
    _run_db_clean(RUN_TABLES, now - timedelta(days=RUN_RETENTION_DAYS), waiting_dags)
    _run_db_clean("log", now - timedelta(days=LOG_RETENTION_DAYS), set())


def prune_task_logs(folder: Path, now: datetime) -> int:
    """Delete the log files of tasks whose runs are no longer kept; returns how many."""
    oldest = (now - timedelta(days=RUN_RETENTION_DAYS)).timestamp()
    removed = 0
    for path in folder.rglob("*.log"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
            removed += 1
    for path in sorted((item for item in folder.rglob("*") if item.is_dir()), reverse=True):
        if path.stat().st_mtime < oldest and not any(path.iterdir()):
            path.rmdir()
    return removed


def _run_db_clean(tables: str, before: datetime, waiting_dags: set[str]) -> None:
    command = [sys.executable, "-P", "-m", "airflow", "db", "clean", "--tables", tables, "--skip-archive", "--yes",
               "--clean-before-timestamp", before.isoformat()]  # fmt: skip
    if waiting_dags:
        command += ["--exclude-dag-ids", ",".join(sorted(waiting_dags))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        log.error("airflow db clean --tables %s failed: %s", tables, done.stderr.strip()[-500:])
    else:
        log.info("pruned %s before %s", tables, before.isoformat(timespec="seconds"))


def main() -> None:
    """Run for ever: maintenance of the outbox every minute, of Airflow's metadata every 6 hours."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    next_metadata = time.monotonic() + METADATA_INITIAL_DELAY_SECONDS
    while True:
        try:
            report = run_maintenance(os.environ["BACKLINE_DATABASE_URL"])
            report["results_pruned"] = prune_results(os.environ["BACKLINE_DATABASE_URL"])
            if any(report.values()):
                log.info("outbox: %s", report)
            if time.monotonic() >= next_metadata:
                next_metadata = time.monotonic() + METADATA_INTERVAL_SECONDS
                prune_airflow(datetime.now(UTC), os.environ)
        except BacklineError as exc:
            log.warning("%s; next attempt in %.0f s", exc, OUTBOX_INTERVAL_SECONDS)
        time.sleep(OUTBOX_INTERVAL_SECONDS)


if __name__ == "__main__":
    main()
