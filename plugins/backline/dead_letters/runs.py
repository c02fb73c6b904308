"""Runs, tasks and DAG files of Airflow as dead letters need them, over its REST API."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backline.airflow_api import ALL_RUNS_PATH, AirflowClient, Run, TaskInstance, log_url
from backline.dead_letters.failures import ImportFailure
from backline.errors import BacklineError, InvalidInput, Rejected

MANUAL_STATE_EVENTS = (
    "patch_dag_run", "bulk_dag_runs", "patch_task_instance", "patch_task_group_instances", "bulk_task_instances",
)  # fmt: skip
"""Events of Airflow's audit log that set a state."""
AUDIT_LOG_TOLERANCE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A run that has failed."""

    dag_id: str
    run_id: str
    conf: Mapping[str, object]
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class FailedTask:
    """A task instance that has failed for good."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    ended_at: datetime


class AirflowRuns:
    """Runs and DAG files of one Airflow. Every call may raise RetryableError or PermanentError."""

    def __init__(self, api: AirflowClient, url: str, bundle_folder: Callable[[str | None], Path] | None = None) -> None:
        """`url` is where people open Airflow; `bundle_folder` gives the folder of a DAG bundle, if it is on this host."""
        self._api, self._url, self._bundle_folder = api, url, bundle_folder

    def failed_runs(self, since: datetime) -> Iterable[FailedRun]:
        """Failed runs of all DAGs that changed since then."""
        found = self._api.iterate_runs(state="failed", updated_at_gte=since.isoformat(), order_by="updated_at")
        return map(_parse_run, found)

    def failed_tasks(self, since: datetime) -> Iterable[FailedTask]:
        """Failed tasks of all runs that changed since then."""
        return map(_parse_task, self._api.iterate_tasks(state="failed", updated_at_gte=since.isoformat()))

    def failed_tasks_in_run(self, dag_id: str, run_id: str) -> Iterable[FailedTask]:
        """Failed tasks of one run."""
        return map(_parse_task, self._api.iterate_tasks(dag_id, run_id, state="failed"))

    def run(self, dag_id: str, run_id: str) -> FailedRun:
        """One run; a run that has not ended has the present time as its end."""
        return _parse_run(self._api.run(dag_id, run_id))

    def task_log(self, task: FailedTask) -> Sequence[Mapping[str, object]]:
        """The events of the last try's log; empty if the log cannot be read."""
        try:
            return self._api.log_events(task.dag_id, task.run_id, task.task_id, task.try_number, task.map_index)
        except BacklineError:
            return ()

    def marked_by(self, dag_id: str, run_id: str, at: datetime) -> str | None:
        """The user who set the run, or one of its tasks, to failed at about that time; None if unknown."""
        try:
            found = self._api.get(
                "/api/v2/eventLogs", dag_id=dag_id, run_id=run_id, included_events=MANUAL_STATE_EVENTS, order_by="-when",
                limit=10, after=(at - AUDIT_LOG_TOLERANCE).isoformat(), before=(at + AUDIT_LOG_TOLERANCE).isoformat(),
            )  # fmt: skip
        except BacklineError:
            return None
        # Setting a note is the same event, without a state.
        return next((str(item["owner"]) for item in found["event_logs"] if '"failed"' in (item["extra"] or "")), None)

    def log_url(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
        """The page with the log; of the run if the task id is empty."""
        return log_url(self._url, dag_id, run_id, task_id, map_index)

    def import_errors(self) -> Sequence[ImportFailure]:
        """All DAG files that cannot be imported now."""
        return [
            ImportFailure(item["bundle_name"], item["filename"], item["stack_trace"], _parse_time(item["timestamp"]))
            for item in self._api.import_errors()
        ]

    def dag_params(self, dag_id: str) -> Mapping[str, object]:
        """The DAG's Params by name."""
        return self._api.dag_params(dag_id)

    def start_run(self, dag_id: str, run_id: str, conf: Mapping[str, object], note: str) -> None:
        """Start a run; does nothing if a run of that id exists. InvalidInput for the field `conf` if Params refuse it."""
        try:
            self._api.trigger(dag_id, conf, run_id, note)
        except Rejected as exc:
            if exc.code == "400":
                raise InvalidInput("conf", str(exc)) from exc
            if exc.code == "404":
                raise InvalidInput("id", f"{dag_id} no longer exists, so no run of it can be started") from exc
            if exc.code != "409":
                raise

    def reparse(self, bundle: str | None, file: str) -> None:
        """Have a DAG file parsed again: through the API if Airflow knows a DAG of it, else by touching the file."""
        for dag in self._api.dags(exclude_stale=False):
            if dag["relative_fileloc"] == file and dag["bundle_name"] == bundle:
                self._api.put(f"/api/v2/parseDagFile/{dag['file_token']}")
                return
        try:
            if self._bundle_folder is not None:
                os.utime(self._bundle_folder(bundle) / file)
                return
            problem = "its folder is not known here"
        except OSError as exc:
            problem = str(exc)
        raise InvalidInput(
            "id", f"{file}: {problem}; Airflow knows no DAG of it yet and parses it again when it changes"
        )


def failure_fingerprint(api: AirflowClient) -> tuple[object, ...]:
    """A value that changes when a run fails, or an import error appears or disappears. Costs two cheap requests."""
    runs = api.get(ALL_RUNS_PATH, state="failed", order_by="-updated_at", limit=1)
    newest = [(run["dag_id"], run["dag_run_id"], run["end_date"]) for run in runs["dag_runs"]]
    errors = [(item["filename"], item["stack_trace"]) for item in api.import_errors()]
    return (runs["total_entries"], tuple(newest), tuple(sorted(errors)))


def _parse_time(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.now(UTC)


def _parse_run(item: Run) -> FailedRun:
    return FailedRun(item["dag_id"], item["dag_run_id"], item["conf"] or {}, _parse_time(item["end_date"]))


def _parse_task(item: TaskInstance) -> FailedTask:
    ended_at = _parse_time(item["end_date"])
    return FailedTask(
        item["dag_id"], item["dag_run_id"], item["task_id"], item["map_index"], item["try_number"], ended_at
    )
