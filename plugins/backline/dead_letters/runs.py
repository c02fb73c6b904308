"""What dead letters need from Airflow; `backline.airflow.runs` implements it over the REST API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from backline.dead_letters.failures import ImportFailure


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A run that has failed."""

    dag_id: str
    run_id: str
    conf: Mapping[str, Any]
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


class RunsClient(Protocol):
    """Runs and DAG files of an Airflow. Every call may raise RetryableError or PermanentError."""

    def failed_runs(self, since: datetime) -> Iterable[FailedRun]:
        """Failed runs of all DAGs that changed since then."""

    def failed_tasks(self, since: datetime) -> Iterable[FailedTask]:
        """Failed tasks of all runs that changed since then."""

    def failed_tasks_in_run(self, dag_id: str, run_id: str) -> Iterable[FailedTask]:
        """Failed tasks of one run."""

    def run(self, dag_id: str, run_id: str) -> FailedRun:
        """One run; a run that has not ended has the present time as its end."""

    def task_log(self, task: FailedTask) -> Sequence[Mapping[str, Any]]:
        """The events of the last try's log; empty if the log cannot be read."""

    def marked_by(self, dag_id: str, run_id: str, at: datetime) -> str | None:
        """The user who set the run, or one of its tasks, to failed at about that time; None if unknown."""

    def log_url(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
        """The page with the log; of the run if the task id is empty."""

    def import_errors(self) -> Sequence[ImportFailure]:
        """All DAG files that cannot be imported now."""

    def dag_params(self, dag_id: str) -> Mapping[str, Any]:
        """The DAG's Params by name."""

    def start_run(self, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str) -> None:
        """Start a run; does nothing if a run of that id exists. InvalidInput for the field `conf` if Params refuse it."""

    def reparse(self, bundle: str | None, file: str) -> None:
        """Have a DAG file parsed again."""
