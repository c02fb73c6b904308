"""Finds failures that no callback has recorded: none runs when the last attempt of a task is killed.

Safe to run twice and at the same time: each failure is one row, whoever writes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg

from backline.dead_letters.failures import FROM_LOG, INFERRED, NOT_MAPPED, REPORTED, WHOLE_RUN, Failure, classify_log
from backline.dead_letters.runs import AirflowRuns, FailedRun, FailedTask
from backline.dead_letters.settings import DeadLetterSettings
from backline.dead_letters.store import DeadLetterStore
from backline.errors import FailureClass, RetryableError
from backline.jobs.job import Job

log = logging.getLogger(__name__)

CURSOR = "reconcile"
CALLBACK_TIME = timedelta(seconds=30)
OVERLAP = timedelta(minutes=10)
"""Re-read what changed shortly before the last run: clocks differ, and transactions commit late."""
INITIAL_LOOKBACK = timedelta(hours=1)
RUN_FAILURE_REASONS = {
    "timed_out": (FailureClass.TIMEOUT, "the run took longer than its dagrun_timeout"),
    "all_tasks_deadlocked": (FailureClass.UNKNOWN, "no task of the run could be started any more"),
}
"""Class and cause by Airflow's reason for the failure of a whole run."""
NO_TASK_FAILED = "the run failed although none of its tasks did: it took too long, or a person ended it"
KILLED = "the task ended without an error: its process, or its worker, was killed"
Cause = tuple[FailureClass, str, int]
"""Class, cause and how they are known."""


@dataclass(slots=True)
class ReconcileReport:
    """What was found."""

    failed_tasks: int = 0
    failed_runs: int = 0
    recorded: int = 0
    import_errors: int = 0
    resolved: int = 0


def reconcile_dead_letters(job: Job[DeadLetterSettings]) -> ReconcileReport:
    """Record every failure since the last run that has no dead letter; resolve those of files that import again."""
    store, report = DeadLetterStore(job.database), ReconcileReport()
    cursor = store.get_cursor(CURSOR)
    since = cursor - OVERLAP if cursor else job.now - INITIAL_LOOKBACK
    with job.clients.airflow_runs() as runs:
        tasks = list(runs.failed_tasks(since))
        failed = list(runs.failed_runs(since))
        report.failed_tasks, report.failed_runs = len(tasks), len(failed)
        report.recorded = store.record_messages()
        for run_tasks in _by_run(tasks):
            report.recorded += _alone(job, partial(_record_tasks, store, runs, run_tasks))
        with_task = {(task.dag_id, task.run_id) for task in tasks}
        for run in failed:
            if (run.dag_id, run.run_id) not in with_task:
                report.recorded += _alone(job, partial(record_failed_run, store, runs, run, None))
        errors = list(runs.import_errors())
    report.import_errors = len(errors)
    for error in errors:
        _alone(job, partial(store.record_import, error))
    report.resolved = store.resolve_imports(errors)
    store.set_cursor(CURSOR, job.now)
    return report


def _by_run(tasks: Sequence[FailedTask]) -> list[list[FailedTask]]:
    groups: dict[tuple[str, str], list[FailedTask]] = {}
    for task in tasks:
        groups.setdefault((task.dag_id, task.run_id), []).append(task)
    return list(groups.values())


def _alone(job: Job[DeadLetterSettings], record: Callable[[], int]) -> int:
    """How many it recorded. A failure that cannot be recorded affects no other; the run fails with it at its end."""
    try:
        return record()
    except (RetryableError, psycopg.OperationalError):  # Airflow or the database is away: the next run reads all again
        raise
    except Exception as exc:  # a value that Python or SQL cannot handle
        log.exception("a failure could not be recorded")
        job.fail_at_end(exc)
        return 0


def record_failed_run(store: DeadLetterStore, runs: AirflowRuns, run: FailedRun, reason: str | None) -> int:
    """Record the failed tasks of a failed run, or the run itself if none of its tasks failed; returns how many.

    `reason` is Airflow's reason for the failure, if known.
    """
    tasks = list(runs.failed_tasks_in_run(run.dag_id, run.run_id))
    if tasks:
        return _record_tasks(store, runs, tasks)
    known = store.for_runs([(run.dag_id, run.run_id)])
    if reason is None and any(row["failed_at"] >= run.ended_at for row in known):
        return 0
    if reason in RUN_FAILURE_REASONS:
        cause: Cause = (*RUN_FAILURE_REASONS[reason], REPORTED)
    elif (found := _manual_cause(runs, run)) is not None:
        cause = found
    elif reason is None and datetime.now(UTC) - run.ended_at < CALLBACK_TIME:
        return 0  # its callback, which knows the reason, may still come; otherwise the next run records it
    else:
        cause = (FailureClass.UNKNOWN, NO_TASK_FAILED, INFERRED)
    return _record(store, runs, run, (WHOLE_RUN, NOT_MAPPED), 1, cause)


def _record_tasks(store: DeadLetterStore, runs: AirflowRuns, tasks: Sequence[FailedTask]) -> int:
    known: dict[tuple[Any, ...], int] = {
        (row["dag_id"], row["run_id"], row["task_id"], row["map_index"]): row["attempts"]
        for row in store.for_runs(sorted({(task.dag_id, task.run_id) for task in tasks}))
    }
    recorded = 0
    for task in tasks:
        if known.get((task.dag_id, task.run_id, task.task_id, task.map_index), -1) >= task.try_number:
            continue
        if (cause := _manual_cause(runs, task)) is None:
            found = classify_log(runs.task_log(task))
            cause = (*found, FROM_LOG) if found else (FailureClass.UNKNOWN, KILLED, INFERRED)
        run = replace(runs.run(task.dag_id, task.run_id), ended_at=task.ended_at)
        recorded += _record(store, runs, run, (task.task_id, task.map_index), task.try_number, cause)
    return recorded


def _manual_cause(runs: AirflowRuns, failed: FailedRun | FailedTask) -> Cause | None:
    user = runs.marked_by(failed.dag_id, failed.run_id, failed.ended_at)
    return (FailureClass.UNKNOWN, f"marked failed by hand, by {user}", FROM_LOG) if user else None


def _record(
    store: DeadLetterStore, runs: AirflowRuns, run: FailedRun, task: tuple[str, int], attempts: int, cause: Cause
) -> int:
    (task_id, map_index), (failure_class, text, certainty) = task, cause
    log_url = runs.log_url(run.dag_id, run.run_id, task_id, map_index)
    failure = Failure(
        run.dag_id, run.run_id, task_id, map_index, failure_class, text, certainty, attempts, run.conf, log_url, run.ended_at
    )  # fmt: skip
    return int(store.record(failure) is not None)
