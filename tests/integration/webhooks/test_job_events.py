"""`job.succeeded` and `job.failed`: which runs send events, and that each finished run sends one. Airflow's API is faked."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from backline.airflow.job_events import CURSOR, CallAirflow, JobEventPublisher
from backline.airflow_api import AirflowClient
from backline.db.connect import Database
from backline.webhooks import endpoints
from tests.integration.webhooks.conftest import ACTOR, WebhookOutbox

pytestmark = pytest.mark.anyio


class Airflow:
    """Answers as Airflow 3.3 does for lists of DAGs and runs; the real one is asked in the acceptance test."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.asked: list[str] = []

    def ended(self, job: str, state: str, ago: float = 0.0, run_id: str = "manual__1") -> None:
        at = datetime.now(UTC) - timedelta(seconds=ago)
        self.runs.append({
            "dag_id": job, "dag_run_id": run_id, "state": state, "run_type": "manual",
            "start_date": (at - timedelta(seconds=3)).isoformat(), "end_date": at.isoformat(),
        })  # fmt: skip

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(path)
        if path == "/auth/token":
            return {"access_token": "x"}
        if path.startswith("/api/v2/dags?"):
            assert "tags=job" in path
            return {"dags": [{"dag_id": "purge"}, {"dag_id": "report"}], "total_entries": 2}
        assert path == "/api/v2/dags/~/dagRuns/list"
        since = datetime.fromisoformat(body["end_date_gte"])
        found = [
            run for run in self.runs
            if run["dag_id"] in body["dag_ids"] and run["state"] in body["states"]
            and datetime.fromisoformat(run["end_date"]) >= since
        ]  # fmt: skip
        page = found[body["page_offset"] : body["page_offset"] + body["page_limit"]]
        return {"dag_runs": page, "total_entries": len(found)}


@pytest.fixture
def airflow() -> Iterator[tuple[Airflow, AirflowClient]]:
    far = Airflow()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
            answer = json.dumps(far.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with AirflowClient(f"http://127.0.0.1:{server.server_port}", "admin", "x") as rest:
        yield far, rest
    server.shutdown()
    server.server_close()


def calls(client: AirflowClient) -> CallAirflow:
    async def call(function: Callable[[AirflowClient], Any]) -> Any:
        return await asyncio.to_thread(function, client)

    return call


@pytest.fixture
async def jobs(
    webhook_outbox: WebhookOutbox, airflow: tuple[Airflow, AirflowClient]
) -> AsyncIterator[JobEventPublisher]:
    webhook_outbox.outbox.sql("DELETE FROM backline.scan_cursor WHERE name = %s", CURSOR)
    database = Database(webhook_outbox.outbox.dsn, name="test", retry_timeout=0)
    yield JobEventPublisher(calls(airflow[1]), database, "https://airflow.example")
    await database.close()


def fired(webhook_outbox: WebhookOutbox) -> list[tuple[str, str, str]]:
    rows = webhook_outbox.outbox.sql("SELECT payload FROM backline.message WHERE recipient = '*' ORDER BY id")
    return [
        (row["payload"]["event_type"], row["payload"]["data"]["job"], row["payload"]["data"]["run_id"]) for row in rows
    ]


async def test_without_subscribers_a_check_is_one_query(
    webhook_outbox: WebhookOutbox, jobs: JobEventPublisher, airflow: tuple[Airflow, AirflowClient]
) -> None:
    webhook_outbox.endpoint("http://127.0.0.1:9/", "*")
    airflow[0].ended("purge", "success")
    assert await jobs.poll() == 0
    assert airflow[0].asked == []
    assert fired(webhook_outbox) == []


async def test_each_finished_run_sends_one_event(
    webhook_outbox: WebhookOutbox, jobs: JobEventPublisher, airflow: tuple[Airflow, AirflowClient]
) -> None:
    far = airflow[0]
    made = webhook_outbox.endpoint("http://127.0.0.1:9/", "job.*")
    assert await jobs.poll() == 0
    far.ended("purge", "success")
    far.ended("report", "failed", run_id="manual__2")
    far.ended("send_welcome", "success")
    far.ended("purge", "running")
    assert await jobs.poll() == 2
    assert await jobs.poll() == 0
    assert fired(webhook_outbox) == [("job.succeeded", "purge", "manual__1"), ("job.failed", "report", "manual__2")]
    far.ended("report", "success", run_id="manual__2")  # cleared, and well this time
    assert await jobs.poll() == 1
    assert fired(webhook_outbox)[-1] == ("job.succeeded", "report", "manual__2")
    (row,) = webhook_outbox.outbox.sql(
        "SELECT payload FROM backline.message WHERE recipient = %s ORDER BY id LIMIT 1", made.endpoint.id
    )
    data = row["payload"]["data"]
    assert data["url"] == "https://airflow.example/dags/purge/runs/manual__1"
    assert row["payload"]["occurred_at"] == data["ended_at"] == far.runs[0]["end_date"]
    assert row["payload"]["event_id"].startswith("job_")


async def test_another_triggerer_continues_where_the_last_one_stopped(
    webhook_outbox: WebhookOutbox, jobs: JobEventPublisher, airflow: tuple[Airflow, AirflowClient]
) -> None:
    far, rest = airflow
    webhook_outbox.endpoint("http://127.0.0.1:9/", "job.failed")
    far.ended("purge", "failed")
    await jobs.poll()
    far.ended("report", "failed", ago=600)
    far.ended("report", "failed", ago=4000, run_id="long ago")
    webhook_outbox.outbox.sql("UPDATE backline.scan_cursor SET at = at - interval '2 hours' WHERE name = %s", CURSOR)
    database = Database(webhook_outbox.outbox.dsn, name="test", retry_timeout=0)
    await JobEventPublisher(calls(rest), database, "https://airflow.example").poll()
    await database.close()
    assert sorted(fired(webhook_outbox)) == [
        ("job.failed", "purge", "manual__1"),
        ("job.failed", "report", "manual__1"),
    ]


async def test_a_later_subscriber_gets_no_earlier_events(
    webhook_outbox: WebhookOutbox, jobs: JobEventPublisher, airflow: tuple[Airflow, AirflowClient]
) -> None:
    airflow[0].ended("purge", "success", ago=3600)
    await jobs.poll()
    made = webhook_outbox.endpoint("http://127.0.0.1:9/", "job.*")
    assert await jobs.poll() == 0
    endpoints.disable(webhook_outbox.connection, ACTOR, made.endpoint.id, "x")
    airflow[0].asked.clear()
    await jobs.poll()
    assert airflow[0].asked == []


async def test_many_finished_runs_all_send_events(
    webhook_outbox: WebhookOutbox, jobs: JobEventPublisher, airflow: tuple[Airflow, AirflowClient]
) -> None:
    webhook_outbox.endpoint("http://127.0.0.1:9/", "job.*")
    for number in range(250):
        airflow[0].ended("purge", "success", run_id=f"run {number}")
    assert await jobs.poll() == 250
    assert len({run for _, _, run in fired(webhook_outbox)}) == 250
