"""The containers' health check reports the API server's view, and fails without a response."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from backline.airflow.health_probe import HEALTH_KEYS, find_problem

HEALTH = {
    "metadatabase": {"status": "healthy"},
    "scheduler": {"status": "healthy"},
    "triggerer": {"status": "unhealthy"},
    "dag_processor": {"status": None},
}


class _FakeHealthApi(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.path == "/api/v2/monitor/health"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps(HEALTH).encode())

    def log_message(self, *_: object) -> None:
        """Keep the output clean."""


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _FakeHealthApi)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_each_component_has_the_state_that_the_api_server_reports(url: str) -> None:
    assert {name: find_problem(name, url) for name in HEALTH_KEYS} == {
        "api-server": None,
        "scheduler": None,
        "triggerer": "triggerer is unhealthy",
        "dag_processor": "dag_processor is unknown",
    }


def test_no_response_is_a_problem() -> None:
    assert "refused" in (find_problem("scheduler", "http://127.0.0.1:9") or "")


def test_an_unknown_name_is_an_error(url: str) -> None:
    assert find_problem("webserver", url) == (
        "no component 'webserver'; use one of api-server, scheduler, dag_processor, triggerer"
    )
