"""After hostile requests the server's memory is as it was before."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backline.settings import ROOT
from backline.web.urls import PREFIX
from testkit.http_fuzz import MAX_GROWTH_MIB, Client, OddRequest, fuzz, memory_mib
from testkit.processes import wait_for
from tests.integration.web.conftest import API, Api

MIB = 2**20
JSON = {"Content-Type": b"application/json"}


@pytest.fixture
def http_server(api: Api, tmp_path: Path) -> Iterator[tuple[int, dict[str, str]]]:  # noqa: ARG001 - its environment
    """The port and the tokens of a server on an empty database."""
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}", "AIRFLOW__API_AUTH__JWT_SECRET": "x" * 64,
        "BACKLINE__HTTP__BODY_TIMEOUT_SECONDS": "2",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.integration.web.server"]
    log = tmp_path / "server.log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, env=environment, cwd=ROOT) as process:
        wait_for(lambda: _started(log), "the server", 60)
        yield _started(log)["port"], _started(log)["tokens"]
        process.kill()


def _started(log: Path) -> dict[str, Any]:
    """What the server prints first; empty until it does."""
    lines = log.read_text("utf-8").splitlines()
    return next((json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")), {})


def long_names(client: Client, token: str) -> None:
    for number in range(30):
        name = "x" * 12 * MIB + str(number)
        body = json.dumps(
            {"type": "email", "to": f"{name} <ann@example.com>", "payload": {"subject": "s", "text": "t"}}
        )
        status, answer = client.send(OddRequest("POST", f"{API}/messages", "to", JSON, body.encode()), token)
        assert (status, len(answer) < 8192) == (422, True)


def unknown_fields(client: Client, token: str) -> None:
    fields = {f"field_{number}": number for number in range(200_000)}
    payload = {"type": "email", "to": "ann@example.com", "payload": fields}
    for body in ({"type": "email", "to": "ann@example.com", **fields}, payload):
        status, answer = client.send(OddRequest("POST", f"{API}/messages", "", JSON, json.dumps(body).encode()), token)
        assert (status, len(answer) < 8192) == (422, True)


def half_sent_bodies(port: int) -> None:
    """To a closed hook, and to the unsubscribe page."""
    sent = []
    for number in range(100):
        path = "hooks/sendgrid" if number % 2 else "unsubscribe/x"
        connection = socket.create_connection(("127.0.0.1", port))
        connection.settimeout(10)
        connection.sendall(f"POST {PREFIX}/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {2 * MIB}\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # answered and closed
            connection.sendall(b"x" * MIB)
        sent.append(connection)
    answers = []
    for connection in sent:
        try:
            answers.append(connection.recv(100)[:12])
        except OSError:
            answers.append(b"closed")
        connection.close()
    assert {b"HTTP/1.1 404", b"HTTP/1.1 413"} <= set(answers) <= {b"HTTP/1.1 404", b"HTTP/1.1 413", b"closed", b""}


def wait_for_memory(port: int, below: float) -> float:
    """The memory once it is below the bound, or after five seconds."""
    until = time.monotonic() + 5
    while (found := memory_mib(port)) >= below and time.monotonic() < until:
        time.sleep(0.1)
    return found


@pytest.mark.usefixtures("airflow_tables")
def test_memory_is_given_back(http_server: tuple[int, dict[str, str]]) -> None:
    port, tokens = http_server
    client, random = Client(port), Random(1)
    fuzz(client, [*tokens.values(), None], 300, random)
    before, start = memory_mib(port), time.monotonic()
    half_sent_bodies(port)
    long_names(client, tokens["op"])
    unknown_fields(client, tokens["op"])
    statuses = fuzz(client, [*tokens.values(), None], 500, random)
    after = wait_for_memory(port, before + MAX_GROWTH_MIB)
    print(f"{before:.0f} MiB before, {after:.0f} MiB after {time.monotonic() - start:.1f} s; {dict(statuses)}")  # noqa: T201 - shown when it fails
    assert after - before < MAX_GROWTH_MIB
