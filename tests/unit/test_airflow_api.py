"""The client of Airflow's REST API against a server on loopback: logins, retries, limits and errors."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from backline import airflow_api
from backline.airflow_api import check_conf, log_url
from backline.errors import (
    AuthenticationFailed,
    BacklineError,
    InvalidInput,
    NetworkFailure,
    RateLimited,
    Rejected,
    TimeoutFailure,
    UnknownFailure,
)
from backline.settings import ROOT
from testkit.run_inspector import RunInspector

Reply = tuple[int, Any]


class FakeApi:
    """Replies with what is queued for a path, the last reply for ever; logs in with one token after another."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.logins = 0
        self.hang = threading.Event()

    def handle(self, method: str, path: str, token: str | None) -> Reply:
        if path == "/auth/token":
            self.logins += 1
            return 201, {"access_token": f"token-{self.logins}"}
        self.requests.append(f"{method} {path}")
        self.tokens.append(token)
        queued = self.replies[path.partition("?")[0]]
        return queued.pop(0) if len(queued) > 1 else queued[0]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    fake = FakeApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, body = fake.handle(self.command, self.path, self.headers.get("authorization"))
            if status == 0:
                fake.hang.wait(5)
                self.close_connection = True
                return
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            if status == 429:
                self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_port}/"  # type: ignore[attr-defined]
    yield fake
    fake.hang.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunInspector]:
    monkeypatch.setattr(airflow_api, "INITIAL_RETRY_DELAY_SECONDS", 0.001)
    with RunInspector(api.url, "admin", "x", timeout=0.5) as made:  # type: ignore[attr-defined]
        yield made


RUN = "/api/v2/dags/job/dagRuns/r%2F1"


def test_one_login_serves_all_requests(api: FakeApi, client: RunInspector) -> None:
    api.replies = {RUN: [(200, {"state": "success"})]}
    assert client.run("job", "r/1")["state"] == client.run("job", "r/1")["state"] == "success"
    assert (api.logins, api.tokens) == (1, ["Bearer token-1"] * 2)


def test_an_expired_token_is_renewed(api: FakeApi, client: RunInspector) -> None:
    api.replies = {RUN: [(200, {}), (401, {"detail": "expired"}), (200, {"state": "failed"})]}
    client.run("job", "r/1")
    assert client.run("job", "r/1")["state"] == "failed"
    assert api.tokens == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


def test_a_fresh_token_that_is_refused_is_an_error(api: FakeApi, client: RunInspector) -> None:
    api.replies = {RUN: [(401, {"detail": "who are you"})]}
    with pytest.raises(AuthenticationFailed, match="401 who are you"):
        client.run("job", "r/1")
    assert api.logins == 1


def test_health_needs_no_login(api: FakeApi, client: RunInspector) -> None:
    api.replies = {"/api/v2/monitor/health": [(200, {"scheduler": {"status": "healthy"}})]}
    assert client.health() == {"scheduler": {"status": "healthy"}}
    assert (api.logins, api.tokens) == (0, [None])


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Rejected),
        (403, AuthenticationFailed),
        (404, Rejected),
        (409, Rejected),
        (429, RateLimited),
        (500, UnknownFailure),
        (503, UnknownFailure),
    ],
)
def test_a_status_is_translated(api: FakeApi, client: RunInspector, status: int, error: type[BacklineError]) -> None:
    api.replies = {RUN: [(status, {"detail": "because"})]}
    with pytest.raises(error, match=f"Airflow refused {RUN}: {status} because") as raised:
        client.run("job", "r/1")
    assert (raised.value.code, raised.value.response) == (str(status), '{"detail": "because"}')
    assert len(api.requests) == (3 if status in (429, 503) else 1)


@pytest.mark.parametrize("reply", [(503, {}), (429, {}), (0, None)])
def test_a_reading_request_is_repeated(api: FakeApi, client: RunInspector, reply: Reply) -> None:
    api.hang.set()  # status 0: the connection is closed without a response
    api.replies = {RUN: [reply, (200, {"state": "success"})]}
    assert client.run("job", "r/1")["state"] == "success"
    assert len(api.requests) == 2


def test_a_post_that_may_have_been_processed_is_not_repeated(api: FakeApi, client: RunInspector) -> None:
    api.hang.set()
    path = "/api/v2/dags/job/dagRuns"
    for reply, error in (((503, {}), UnknownFailure), ((0, None), NetworkFailure)):
        api.requests, api.replies = [], {path: [reply]}
        with pytest.raises(error):
            client.trigger("job", {})
        assert api.requests == [f"POST {path}"]


def test_a_slow_response_is_a_timeout(api: FakeApi, client: RunInspector) -> None:
    api.replies = {RUN: [(0, None)]}
    with pytest.raises(TimeoutFailure, match=r"did not answer GET .* within"):
        client.run("job", "r/1")
    assert len(api.requests) == 1


def test_a_server_that_is_down_is_a_network_failure() -> None:
    with RunInspector("http://127.0.0.1:9", "admin", "x", retries=0) as down, pytest.raises(NetworkFailure):
        down.run("job", "r1")


def test_a_response_is_bounded(api: FakeApi, client: RunInspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_api, "MAX_RESPONSE_BYTES", 1000)
    api.replies = {RUN: [(200, {"conf": "x" * 2000})]}
    with pytest.raises(Rejected, match="is over"):
        client.run("job", "r/1")


def test_a_response_that_is_not_json_is_an_error(api: FakeApi, client: RunInspector) -> None:
    api.replies = {RUN: [(200, b"<html>")]}
    with pytest.raises(UnknownFailure, match="with JSON"):
        client.run("job", "r/1")


def test_lists_are_read_page_by_page(api: FakeApi, client: RunInspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_api, "PAGE_SIZE", 2)
    pages = [[{"dag_id": "a"}, {"dag_id": "b"}], [{"dag_id": "c"}]]
    api.replies = {"/api/v2/dags": [(200, {"dags": page, "total_entries": 3}) for page in pages]}
    assert [dag["dag_id"] for dag in client.dags(tags="job")] == ["a", "b", "c"]
    assert api.requests == [
        "GET /api/v2/dags?limit=2&tags=job&offset=0",
        "GET /api/v2/dags?limit=2&tags=job&offset=2",
    ]


def test_an_xcom_that_does_not_exist_is_none(api: FakeApi, client: RunInspector) -> None:
    api.replies = {f"{RUN}/taskInstances/work/xcomEntries/return_value": [(404, {}), (200, {"value": 7})]}
    assert client.xcom("job", "r/1", "work") is None
    assert client.xcom("job", "r/1", "work") == 7


def test_a_log_is_one_line_an_event(api: FakeApi, client: RunInspector) -> None:
    events = ["plain", {"event": "Task failed", "level": "error", "exc_value": "no route"}]
    api.replies = {f"{RUN}/taskInstances/work/logs/2": [(200, {"content": events})]}
    assert client.log("job", "r/1", "work", 2) == "plain\nTask failed exc_value=no route"


def test_waiting_ends_with_the_run_or_with_the_time(api: FakeApi, client: RunInspector) -> None:
    api.replies = {RUN: [(200, {"state": "running"}), (200, {"state": "success"})]}
    assert client.wait("job", "r/1", 10)["state"] == "success"
    api.replies = {RUN: [(200, {"state": "queued"})]}
    with pytest.raises(TimeoutFailure, match="job/r/1 is still queued after 0 s"):
        client.wait("job", "r/1", 0)


def test_pages_of_runs_and_tasks() -> None:
    assert log_url("http://x/", "job", "r 1") == "http://x/dags/job/runs/r%201"
    assert log_url("http://x", "job", "r1", "work", -1) == "http://x/dags/job/runs/r1/tasks/work"
    assert log_url("http://x", "job", "r1", "work", 3) == "http://x/dags/job/runs/r1/tasks/work/mapped/3"


def test_an_unknown_parameter_is_named() -> None:
    check_conf("job", {"days": 7}, {"days": 1}, "conf")
    with pytest.raises(InvalidInput, match=r"conf\.day: job has no such parameter; it has: days"):
        check_conf("job", {"days": 7}, {"day": 1}, "conf")


def test_it_needs_no_airflow() -> None:
    code = "import sys, backline.airflow_api; sys.exit('airflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "plugins")}, check=False, cwd="/")
    assert done.returncode == 0
