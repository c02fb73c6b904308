"""Airflow's runs, tasks and import errors over its REST API, as dead letters see them (`dead_letters.runs.Runs`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from backline.airflow.rest import AirflowRest, Json
from backline.dead_letters.failures import NOT_MAPPED, ImportFailure
from backline.dead_letters.runs import FailedRun, FailedTask
from backline.errors import BacklineError, InvalidInput, Rejected

MANUAL_STATE_EVENTS = (
    "patch_dag_run",
    "bulk_dag_runs",
    "patch_task_instance",
    "patch_task_group_instances",
    "bulk_task_instances",
)
"""Airflow's names, in its audit log, for what sets a state."""
AUDIT_LOG_TOLERANCE = timedelta(seconds=30)
ALL_RUNS_PATH = "/api/v2/dags/~/dagRuns"


class AirflowRuns:
    """Runs, over one client. `url` is where people open Airflow."""

    def __init__(self, rest: AirflowRest, url: str) -> None:
        self._rest, self._url = rest, url

    def failed_runs(self, since: datetime) -> Iterable[FailedRun]:
        """Failed runs of all DAGs that changed since then."""
        found = self._rest.pages(
            ALL_RUNS_PATH, "dag_runs", state="failed", updated_at_gte=since.isoformat(), order_by="updated_at"
        )
        return (_parse_run(item) for item in found)

    def failed_tasks(self, since: datetime) -> Iterable[FailedTask]:
        """Failed tasks of all runs that changed since then."""
        found = self._rest.pages(
            f"{ALL_RUNS_PATH}/~/taskInstances", "task_instances", state="failed", updated_at_gte=since.isoformat()
        )
        return (_parse_task(item) for item in found)

    def failed_tasks_in_run(self, dag_id: str, run_id: str) -> Iterable[FailedTask]:
        """Failed tasks of one run."""
        found = self._rest.pages(f"{_run_path(dag_id, run_id)}/taskInstances", "task_instances", state="failed")
        return (_parse_task(item) for item in found)

    def run(self, dag_id: str, run_id: str) -> FailedRun:
        """One run; its end is now if it has none."""
        return _parse_run(self._rest.run(dag_id, run_id))

    def task_log(self, task: FailedTask) -> Sequence[Mapping[str, Any]]:
        """The events of the last try's log; empty when it cannot be had."""
        path = f"{_run_path(task.dag_id, task.run_id)}/taskInstances/{quote(task.task_id)}/logs/{task.try_number}"
        try:
            answer = self._rest.get(path, full_content=True, map_index=task.map_index)
        except BacklineError:
            return ()
        return [event if isinstance(event, dict) else {"event": str(event)} for event in answer["content"]]

    def marked_by(self, dag_id: str, run_id: str, at: datetime) -> str | None:
        """Who set the state of the run or of one of its tasks by hand about then; None if nobody did, or we may not know."""
        about_then = {"after": (at - AUDIT_LOG_TOLERANCE).isoformat(), "before": (at + AUDIT_LOG_TOLERANCE).isoformat()}
        try:
            answer = self._rest.get(
                "/api/v2/eventLogs",
                dag_id=dag_id,
                run_id=run_id,
                included_events=MANUAL_STATE_EVENTS,
                order_by="-when",
                limit=10,
                **about_then,
            )
        except BacklineError:
            return None
        # A note set by hand is such an event too.
        return next((str(item["owner"]) for item in answer["event_logs"] if '"failed"' in (item["extra"] or "")), None)

    def log_url(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
        """Where a person reads the log; of the run if the task id is empty."""
        return log_url(self._url, dag_id, run_id, task_id, map_index)

    def import_errors(self) -> Sequence[ImportFailure]:
        """All DAG files that cannot be imported now."""
        found = self._rest.pages("/api/v2/importErrors", "import_errors")
        return [
            ImportFailure(item["bundle_name"], item["filename"], item["stack_trace"], _parse_time(item["timestamp"]))
            for item in found
        ]

    def dag_params(self, dag_id: str) -> Mapping[str, Any]:
        """The DAG's Params by name."""
        found: Json = self._rest.get(f"/api/v2/dags/{quote(dag_id)}/details")["params"] or {}
        return found

    def start_run(self, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str) -> None:
        """Start a run. InvalidInput for the field `conf` if Params refuse it; a run of that id that is there is well."""
        try:
            self._rest.trigger(dag_id, conf, run_id, note)
        except Rejected as exc:
            if exc.code == "400":
                raise InvalidInput("conf", str(exc)) from exc
            if exc.code == "404":
                raise InvalidInput("id", f"{dag_id} is not a job any more, so it cannot be started") from exc
            if exc.code != "409":
                raise

    def reparse(self, bundle: str | None, file: str) -> None:
        """Ask for a DAG file to be read again: over the API if Airflow knows a DAG of it, else by touching the file."""
        for dag in self._rest.pages("/api/v2/dags", "dags", exclude_stale=False):
            if dag["relative_fileloc"] == file and dag["bundle_name"] == bundle:
                self._rest.put(f"/api/v2/parseDagFile/{dag['file_token']}")
                return
        path = _dag_file_path(bundle, file)
        try:
            os.utime(path)
        except OSError as exc:
            raise InvalidInput(
                "id",
                f"{path}: {exc.strerror}; Airflow knows no DAG of it yet and reads it again by itself, or when it changes",
            ) from exc


def log_url(url: str, dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """The page of a task instance, or of the run if the task id is empty, in the Airflow at `url`."""
    page = f"{url.rstrip('/')}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}"
    if task_id:
        page += f"/tasks/{quote(task_id)}" + (f"/mapped/{map_index}" if map_index != NOT_MAPPED else "")
    return page


def failure_fingerprint(rest: AirflowRest) -> tuple[object, ...]:
    """Something that differs when a run has failed, or a file's import error is new or gone: two cheap requests."""
    runs = rest.get(ALL_RUNS_PATH, state="failed", order_by="-updated_at", limit=1)
    newest = [(run["dag_id"], run["dag_run_id"], run["end_date"]) for run in runs["dag_runs"]]
    errors = [(item["filename"], item["stack_trace"]) for item in rest.pages("/api/v2/importErrors", "import_errors")]
    return (runs["total_entries"], tuple(newest), tuple(sorted(errors)))


def _dag_file_path(bundle: str | None, file: str) -> Path:
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    bundles = DagBundlesManager()  # type: ignore[no-untyped-call]
    return Path(bundles.get_bundle(bundle or "dags-folder").path) / file


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _parse_time(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.now(UTC)


def _parse_run(item: Json) -> FailedRun:
    return FailedRun(item["dag_id"], item["dag_run_id"], item["conf"] or {}, _parse_time(item["end_date"]))


def _parse_task(item: Json) -> FailedTask:
    return FailedTask(
        item["dag_id"],
        item["dag_run_id"],
        item["task_id"],
        item["map_index"],
        item["try_number"],
        _parse_time(item["end_date"]),
    )
