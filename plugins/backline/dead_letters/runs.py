"""What dead letters need of Airflow; `backline.airflow.runs` gives it over the REST API."""

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
    """Airflow as an operator sees it. Every call may raise RetryableError or PermanentError."""

    def failed_runs(self, since: datetime) -> Iterable[FailedRun]:
        """Failed runs of all DAGs that changed since then."""

    def failed_tasks(self, since: datetime) -> Iterable[FailedTask]:
        """Failed tasks of all runs that changed since then."""

    def failed_tasks_in_run(self, dag_id: str, run_id: str) -> Iterable[FailedTask]:
        """Failed tasks of one run."""

    def run(self, dag_id: str, run_id: str) -> FailedRun:
        """One run; its end is now if it has none."""

    def task_log(self, task: FailedTask) -> Sequence[Mapping[str, Any]]:
        """The events of the last try's log; empty when it cannot be had."""

    def marked_by(self, dag_id: str, run_id: str, at: datetime) -> str | None:
        """Who set the state of the run or of one of its tasks by hand about then; None if nobody did, or we may not know."""

    def log_url(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
        """Where a person reads the log; of the run if the task id is empty."""

    def import_errors(self) -> Sequence[ImportFailure]:
        """All DAG files that cannot be imported now."""

    def dag_params(self, dag_id: str) -> Mapping[str, Any]:
        """The DAG's Params by name."""

    def start_run(self, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str) -> None:
        """Start a run. InvalidInput for the field `conf` if Params refuse it; a run of that id that is there is well."""

    def reparse(self, bundle: str | None, file: str) -> None:
        """Ask for a DAG file to be read again."""
