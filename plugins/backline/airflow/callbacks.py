"""Callbacks for failed and late runs: quick, never failing; `reconcile_dead_letters` finds what they miss."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

log = logging.getLogger(__name__)


def record_task_failure(context: Context) -> None:
    """`on_failure_callback` of a task: it has failed for good."""
    _record(_record_task, context)


def record_run_failure(context: Context) -> None:
    """`on_failure_callback` of a DAG: the run has failed, with or without a failed task."""
    _record(_record_run, context)


def record_late_run(deadline_seconds: float, context: Mapping[str, Any]) -> None:
    """Callback of a deadline: the run has not ended. Runs in an executor, with the scheduler's data about the run."""
    from backline.airflow.connections import app_dsn, base_url
    from backline.airflow_api import log_url
    from backline.jobs.limits import insert_late_run

    dag_id, run_id = context["dag_run"]["dag_id"], context["dag_run"]["dag_run_id"]
    insert_late_run(app_dsn(), dag_id, run_id, deadline_seconds, log_url(base_url(), dag_id, run_id))


def _record(record: Callable[[Context], None], context: Context) -> None:
    try:
        record(context)
    except Exception as exc:  # noqa: BLE001 - the failure of the task or run is what counts
        log.warning("dead letter not written, the reconciler will write it: %s", exc)


def _record_task(context: Context) -> None:
    from airflow.sdk._shared.secrets_masker import redact

    from backline.airflow.connections import app_dsn
    from backline.dead_letters.failures import FROM_LOG, REPORTED, Failure, classify, format_cause
    from backline.dead_letters.store import DeadLetterStore
    from backline.errors import FailureClass

    ti, run = context["ti"], context["dag_run"]
    exception = context.get("exception")
    if isinstance(exception, BaseException):
        failure_class, cause, certainty = classify(exception), str(redact(format_cause(exception))), REPORTED
    else:
        failure_class, cause, certainty = FailureClass.UNKNOWN, str(exception or "the task gave no reason"), FROM_LOG
    failure = Failure(
        run.dag_id, run.run_id, ti.task_id, -1 if ti.map_index is None else ti.map_index, failure_class, cause, certainty,
        ti.try_number, run.conf or {}, ti.log_url, getattr(ti, "end_date", None) or datetime.now(UTC),
    )  # fmt: skip
    with DeadLetterStore.open(app_dsn()) as store:
        store.record(failure)


def _record_run(context: Context) -> None:
    from backline.airflow.connections import airflow_rest, app_dsn, base_url
    from backline.dead_letters.reconcile_dead_letters import record_failed_run
    from backline.dead_letters.runs import AirflowRuns
    from backline.dead_letters.store import DeadLetterStore

    with airflow_rest() as api, DeadLetterStore.open(app_dsn()) as store:
        runs = AirflowRuns(api, base_url())
        run = runs.run(context["dag"].dag_id, context["run_id"])
        record_failed_run(store, runs, run, context.get("reason"))
