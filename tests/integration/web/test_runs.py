"""Results and progress of runs over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from airflow.api_fastapi.app import get_auth_manager
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import insert

from backline.jobs.results import ResultStore, RunRef
from tests.integration.web.conftest import Api

SCHEDULED = "scheduled__2026-01-01T00:00:00+00:00"
ID = f"count_orders:{SCHEDULED}"


pytestmark = pytest.mark.usefixtures("airflow_tables")


@pytest.fixture(autouse=True)
def no_runs(api: Api) -> Iterator[None]:
    """No runs and no stored results."""
    api.sql("TRUNCATE backline.job_result")
    yield
    with create_session() as session:
        session.execute(DagRun.__table__.delete())


def add_run(state: str, run_id: str = SCHEDULED) -> None:
    now = datetime.now(UTC)
    values = {
        "dag_id": "count_orders", "run_id": run_id, "state": state, "run_type": "manual", "run_after": now,
        "clear_number": 0, "span_status": "not_started",
    }  # fmt: skip
    with create_session() as session:
        session.execute(insert(DagRun.__table__).values(**values))


@pytest.fixture
def store(shared_database: str) -> ResultStore:
    return ResultStore(shared_database, RunRef("count_orders", SCHEDULED), 3600)


@pytest.mark.parametrize("text", [ID, quote(ID, safe="")])
def test_the_result_of_a_run(api: Api, store: ResultStore, text: str) -> None:
    store.result({"orders": 17})
    response = api.get(f"runs/{text}/result")
    assert response.status_code == 200
    found = response.json()
    assert (found["dag_id"], found["run_id"], found["result"]) == ("count_orders", SCHEDULED, {"orders": 17})
    assert (found["percent"], found["doing"]) == (100, None)
    kept = datetime.fromisoformat(found["expires_at"]) - datetime.fromisoformat(found["updated_at"])
    assert kept.total_seconds() == pytest.approx(3600, abs=1)


def test_the_progress_of_a_run(api: Api, store: ResultStore) -> None:
    add_run("running")
    before = api.get(f"runs/{ID}/progress").json()
    assert (before["percent"], before["doing"], before["updated_at"], before["expires_at"]) == (0, None, None, None)
    store.progress(40, "counting")
    found = api.get(f"runs/{ID}/progress").json()
    assert (found["percent"], found["doing"]) == (40, "counting")
    assert found["updated_at"] is not None
    assert "result" not in found
    early = api.get(f"runs/{ID}/result")
    assert (early.status_code, early.json()["type"]) == (404, "urn:backline:problem:not-found")
    assert early.json()["detail"] == f"Run {ID} has no result yet: it is running"


@pytest.mark.parametrize("what", ["result", "progress"])
def test_an_unknown_run_is_a_404(api: Api, what: str) -> None:
    add_run("running")
    response = api.get(f"runs/count_orders:manual__1/{what}")
    assert (response.status_code, response.json()["type"]) == (404, "urn:backline:problem:not-found")
    assert response.json()["detail"] == "There is no run 'manual__1' of DAG 'count_orders'"


@pytest.mark.parametrize("what", ["result", "progress"])
def test_what_is_no_longer_kept_is_a_404_that_says_how_long_it_was_kept(
    api: Api, store: ResultStore, what: str
) -> None:
    add_run("success")
    store.result({"orders": 17})
    api.sql("UPDATE backline.job_result SET expires_at = clock_timestamp()")
    response = api.get(f"runs/{ID}/{what}")
    assert response.status_code == 404
    assert f"Run {ID} ended as success; it" in response.json()["detail"]
    assert "no longer kept. Results are kept for 3600 s after the last update" in response.json()["detail"]


@pytest.mark.parametrize("text", ["count_orders", ":manual__1", "count_orders:"])
def test_a_malformed_id_names_the_format(api: Api, text: str) -> None:
    response = api.get(f"runs/{text}/result")
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "id"
    assert "write <dag_id>:<run_id>" in response.json()["errors"][0]["detail"]


@pytest.mark.parametrize("what", ["result", "progress"])
def test_a_run_is_readable_only_with_airflows_permission_for_its_dag(
    api: Api, store: ResultStore, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    store.result({"orders": 17})
    manager = type(get_auth_manager())
    allowed = manager.is_authorized_dag

    def is_authorized_dag(self: object, **options: object) -> bool:
        if getattr(options.get("details"), "id", None) == "count_orders":
            return False
        return bool(allowed(self, **options))  # type: ignore[arg-type]

    monkeypatch.setattr(manager, "is_authorized_dag", is_authorized_dag)
    response = api.get(f"runs/{ID}/{what}")
    assert (response.status_code, response.json()["type"]) == (403, "urn:backline:problem:forbidden")
    assert response.json()["detail"] == "viewer-1 may not read the runs of DAG count_orders"
    assert api.get(f"runs/other:{SCHEDULED}/{what}").status_code == 404
