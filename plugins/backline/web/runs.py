"""Runs of jobs over HTTP; an id is `<dag_id>:<run_id>`, split at the first colon, which a DAG id cannot contain."""

from __future__ import annotations

from typing import Annotated, Any

from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from fastapi import Path, Request
from sqlalchemy import select

from backline.airflow_api import FINAL_STATES
from backline.jobs.results import RUN_PATTERN, RunRef, fetch_result
from backline.settings import settings
from backline.web import schemas
from backline.web.bodies import checked_router
from backline.web.database import Connections, Database
from backline.web.problems import ApiError
from backline.web.roles import Role, require_dag_access, route

router = checked_router(prefix="/api/v1/runs", tags=["runs"])


RunId = Annotated[
    str,
    Path(
        max_length=600,
        json_schema_extra={"pattern": f"^{RUN_PATTERN}$"},
        examples=["count_orders:manual__2026-01-01T00:00:00+00:00"],
    ),
]


@router.get("/{id}/result", **route(Role.VIEWER, "The result of a run", schemas.RunResult))
def get_result(request: Request, database: Database, id: RunId) -> dict[str, Any]:  # noqa: A002 - the path's name
    """404 if there is no such run, it has no result, or its result is no longer kept."""
    run, row = _find(request, database, id)
    if row is not None and row["result"] is not None:
        return row
    state = _get_state(run)
    if state not in FINAL_STATES:
        raise ApiError(404, f"Run {run} has no result yet: it is {state}")
    raise ApiError(
        404, f"Run {run} ended as {state}; it has no result, or the result is no longer kept. {_retention()}"
    )


@router.get("/{id}/progress", **route(Role.VIEWER, "The progress of a run", schemas.Progress))
def get_progress(request: Request, database: Database, id: RunId) -> dict[str, Any]:  # noqa: A002
    """0 percent if the run has not reported any progress yet; 404 if there is no such run, or it is no longer kept."""
    run, row = _find(request, database, id)
    if row is not None:
        return row
    state = _get_state(run)
    if state in FINAL_STATES:
        raise ApiError(404, f"Run {run} ended as {state}; its progress is no longer kept. {_retention()}")
    return {
        "dag_id": run.dag_id, "run_id": run.run_id, "percent": 0, "doing": None, "updated_at": None, "expires_at": None
    }  # fmt: skip


def _find(request: Request, database: Connections, text: str) -> tuple[RunRef, dict[str, Any] | None]:
    """A run and what is stored of it; 422 for a malformed id, 403 if the user may not read the DAG's runs."""
    run = RunRef.parse(text)
    require_dag_access(request, run.dag_id)
    with database.transaction() as connection:
        return run, fetch_result(connection, run)


def _get_state(run: RunRef) -> str:
    with create_session() as session:
        query = select(DagRun.state).where(DagRun.dag_id == run.dag_id, DagRun.run_id == run.run_id)
        state = session.scalar(query)
    if state is None:
        raise ApiError(404, f"There is no run {run.run_id!r} of DAG {run.dag_id!r}")
    return str(state)


def _retention() -> str:
    seconds = settings().jobs.result_ttl_seconds
    return f"Results are kept for {seconds:g} s after the last update, unless the job sets its own result_ttl_seconds"
