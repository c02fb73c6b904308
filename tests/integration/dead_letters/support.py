"""A fake of `AirflowRuns` in memory, and functions that create dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from backline.dead_letters.failures import REPORTED, Failure, ImportFailure
from backline.dead_letters.runs import AirflowRuns, FailedRun, FailedTask
from backline.dead_letters.store import DeadLetterStore, Row
from backline.errors import FailureClass, InvalidInput, NetworkFailure
from tests.integration.outbox.support import Outbox, finished_outcome

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class FakeAirflow(AirflowRuns):
    """Runs, tasks and DAG files of an Airflow, set by the test."""

    def __init__(self) -> None:
        self.runs: list[FailedRun] = []
        self.tasks: list[FailedTask] = []
        self.errors: list[ImportFailure] = []
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.marked: dict[str, str] = {}
        self.params: dict[str, Any] = {"days": 7}
        self.started: dict[str, dict[str, Any]] = {}
        self.notes: dict[str, str] = {}
        self.reparsed: list[str] = []
        self.since: list[datetime] = []
        self.unavailable = False

    def failed_runs(self, since: datetime) -> Iterable[FailedRun]:
        self.since.append(since)
        return [run for run in self.runs if run.ended_at >= since]

    def failed_tasks(self, since: datetime) -> Iterable[FailedTask]:
        return [task for task in self.tasks if task.ended_at >= since]

    def failed_tasks_in_run(self, dag_id: str, run_id: str) -> Iterable[FailedTask]:
        return [task for task in self.tasks if (task.dag_id, task.run_id) == (dag_id, run_id)]

    def run(self, dag_id: str, run_id: str) -> FailedRun:
        found = [run for run in self.runs if (run.dag_id, run.run_id) == (dag_id, run_id)]
        return found[0] if found else FailedRun(dag_id, run_id, {}, NOW)

    def task_log(self, task: FailedTask) -> Sequence[Mapping[str, Any]]:
        return self.logs.get(task.task_id, [])

    def marked_by(self, dag_id: str, run_id: str, at: datetime) -> str | None:  # noqa: ARG002
        return self.marked.get(run_id)

    def log_url(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> str:  # noqa: ARG002
        return f"http://airflow.test/{dag_id}/{run_id}/{task_id}"

    def import_errors(self) -> Sequence[ImportFailure]:
        return self.errors

    def dag_params(self, dag_id: str) -> Mapping[str, Any]:  # noqa: ARG002
        return self.params

    def start_run(self, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str) -> None:
        if self.unavailable:
            raise NetworkFailure("Airflow is not available")
        if conf.get("days") == "many":
            raise InvalidInput("conf", "days is not a number")
        self.started[f"{dag_id}/{run_id}"] = dict(conf)
        self.notes[f"{dag_id}/{run_id}"] = note

    def reparse(self, bundle: str | None, file: str) -> None:  # noqa: ARG002
        self.reparsed.append(file)

    # --- set by tests

    def fail(self, task_id: str = "work", run_id: str = "r1", dag_id: str = "job", **options: Any) -> FailedTask:
        """A failed task and its failed run."""
        task = FailedTask(
            dag_id, run_id, task_id, options.get("map_index", -1), options.get("attempts", 1), options.get("at", NOW)
        )
        self.tasks = [
            old for old in self.tasks if (old.run_id, old.task_id, old.map_index) != (run_id, task_id, task.map_index)
        ]
        self.tasks.append(task)
        if not any(run.run_id == run_id for run in self.runs):
            self.runs.append(FailedRun(dag_id, run_id, options.get("conf", {"days": 1}), options.get("at", NOW)))
        return task


def make_failure(**options: Any) -> Failure:
    """A job's failure."""
    values: dict[str, Any] = {
        "dag_id": "job", "run_id": "r1", "task_id": "work", "map_index": -1, "failure_class": FailureClass.NETWORK,
        "cause": "no route", "certainty": REPORTED, "attempts": 4, "conf": {"days": 1}, "log_url": "http://airflow.test/log",
        "failed_at": NOW,
    }  # fmt: skip
    return Failure(**{**values, **options})


def record_failure(store: DeadLetterStore, **options: Any) -> int:
    """A job's dead letter."""
    found = store.record(make_failure(**options))
    assert found is not None
    return found


def make_import_failure(text: str = "SyntaxError: x", file: str = "jobs.py") -> ImportFailure:
    return ImportFailure("dags-folder", file, f"Traceback\n  File\n{text}", NOW)


def make_dead_message(
    outbox: Outbox, *, error: str = "550 no such user", error_class: str = "rejected", **options: Any
) -> int:
    """A message that is claimed and dies; returns its id."""
    message_id = outbox.enqueue(**options)
    [message] = [claimed for claimed in outbox.claim() if claimed.id == message_id]
    outbox.complete(finished_outcome(message, "dead", error_class=error_class, error=error))
    return message_id


def all_dead_letters(store: DeadLetterStore) -> list[Row]:
    from backline.dead_letters.store import Filter

    return list(store.iterate(Filter()))


def seconds_after_now(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)
