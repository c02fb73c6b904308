"""Finds failures that nobody has told of: no callback runs when the last try of a task is killed.

Everything here is safe to do twice and at the same time: each failure is one row, whoever writes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from backline.dead_letters.failures import (
    FROM_LOG,
    INFERRED,
    NOT_MAPPED,
    REPORTED,
    WHOLE_RUN,
    Failure,
    classify_log,
)
from backline.dead_letters.runs import FailedRun, FailedTask, RunsClient
from backline.dead_letters.store import DeadLetterStore
from backline.errors import FailureClass

CURSOR = "reconcile"
OVERLAP = timedelta(minutes=10)
"""Read again what changed shortly before the last look: clocks differ and transactions commit late."""
INITIAL_LOOKBACK = timedelta(hours=1)
RUN_FAILURE_REASONS = {
    "timed_out": (FailureClass.TIMEOUT, "the run took longer than its dagrun_timeout"),
    "all_tasks_deadlocked": (FailureClass.UNKNOWN, "no task of the run could be started any more"),
}
"""Why Airflow says that a run has failed as a whole."""


@dataclass(slots=True)
class ReconcileReport:
    """What a look found."""

    failed_tasks: int = 0
    failed_runs: int = 0
    recorded: int = 0
    import_errors: int = 0
    resolved: int = 0

    def as_dict(self) -> dict[str, int]:
        """For XCom and people."""
        return asdict(self)


def reconcile_dead_letters(letters: DeadLetterStore, runs: RunsClient, now: datetime) -> ReconcileReport:
    """Write a dead letter for every failure since the last look that has none; close those of files that import again."""
    report = ReconcileReport()
    cursor = letters.get_cursor(CURSOR)
    since = cursor - OVERLAP if cursor else now - INITIAL_LOOKBACK
    tasks = list(runs.failed_tasks(since))
    failed = list(runs.failed_runs(since))
    report.failed_tasks, report.failed_runs = len(tasks), len(failed)
    report.recorded = letters.record_messages() + _record_tasks(letters, runs, tasks)
    with_task = {(task.dag_id, task.run_id) for task in tasks}
    for run in failed:
        if (run.dag_id, run.run_id) not in with_task:
            report.recorded += record_failed_run(letters, runs, run, None)
    errors = list(runs.import_errors())
    report.import_errors = len(errors)
    for error in errors:
        letters.record_import(error)
    report.resolved = letters.resolve_imports(errors)
    letters.set_cursor(CURSOR, now)
    return report


def record_failed_run(letters: DeadLetterStore, runs: RunsClient, run: FailedRun, reason: str | None) -> int:
    """Write the dead letters of one failed run: of its failed tasks, or of the run if none failed; returns how many.

    `reason` is Airflow's own word for why it failed, if it was told.
    """
    tasks = list(runs.failed_tasks_in_run(run.dag_id, run.run_id))
    if tasks:
        return _record_tasks(letters, runs, tasks)
    known = letters.for_runs([(run.dag_id, run.run_id)])
    if reason is None and any(row["failed_at"] >= run.ended_at for row in known):
        return 0
    failure_class, cause, certainty = _run_cause(runs, run, reason)
    failure = Failure(
        run.dag_id, run.run_id, WHOLE_RUN, NOT_MAPPED, failure_class, cause, certainty, 1, run.conf,
        runs.log_url(run.dag_id, run.run_id, WHOLE_RUN, NOT_MAPPED), run.ended_at,
    )  # fmt: skip
    return int(letters.record(failure) is not None)


def _record_tasks(letters: DeadLetterStore, runs: RunsClient, tasks: Iterable[FailedTask]) -> int:
    tasks = list(tasks)
    known: dict[tuple[Any, ...], int] = {
        (row["dag_id"], row["run_id"], row["task_id"], row["map_index"]): row["attempts"]
        for row in letters.for_runs(sorted({(task.dag_id, task.run_id) for task in tasks}))
    }
    recorded = 0
    for task in tasks:
        if known.get((task.dag_id, task.run_id, task.task_id, task.map_index), -1) >= task.try_number:
            continue
        failure_class, cause, certainty = _task_cause(runs, task)
        failure = Failure(
            task.dag_id, task.run_id, task.task_id, task.map_index, failure_class, cause, certainty, task.try_number,
            runs.run(task.dag_id, task.run_id).conf,
            runs.log_url(task.dag_id, task.run_id, task.task_id, task.map_index), task.ended_at,
        )  # fmt: skip
        recorded += letters.record(failure) is not None
    return recorded


def _task_cause(runs: RunsClient, task: FailedTask) -> tuple[FailureClass, str, int]:
    if who := runs.marked_by(task.dag_id, task.run_id, task.ended_at):
        return FailureClass.UNKNOWN, f"marked failed by hand, by {who}", FROM_LOG
    if (found := classify_log(runs.task_log(task))) is not None:
        return (*found, FROM_LOG)
    return FailureClass.UNKNOWN, "the task ended without a word: its process, or its worker, was killed", INFERRED


def _run_cause(runs: RunsClient, run: FailedRun, reason: str | None) -> tuple[FailureClass, str, int]:
    if reason in RUN_FAILURE_REASONS:
        return (*RUN_FAILURE_REASONS[reason], REPORTED)
    if who := runs.marked_by(run.dag_id, run.run_id, run.ended_at):
        return FailureClass.UNKNOWN, f"marked failed by hand, by {who}", FROM_LOG
    return (
        FailureClass.UNKNOWN,
        "the run failed and none of its tasks did: it took too long, or a person ended it",
        INFERRED,
    )
