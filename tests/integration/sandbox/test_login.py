"""With a password, nobody reads the sandbox's messages without it; providers' own paths show none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from backline.settings import ROOT
from sandbox.gateways.faults import DropConnectionMiddleware
from sandbox.mail.faults import MailFaults
from sandbox.mail.mailbox import Mailbox
from sandbox.mail.web import build_app

PASSWORD = "only-its-owner-has-it"
OPEN = {
    "/livez", "/sms/2010-04-01/Accounts/{account}/Messages.json", "/push/token",
    "/push/v1/projects/{project}/messages:send", "/webhooks/in/{name:path}",
}  # fmt: skip
"""Write only. Stripe's API returns what it stores, and asks for its own key."""


@pytest.fixture
def app(tmp_path: Path) -> DropConnectionMiddleware:
    built = build_app(Mailbox(tmp_path), MailFaults(), password=PASSWORD)
    assert isinstance(built, DropConnectionMiddleware)
    return built


@pytest.fixture
def client(app: DropConnectionMiddleware) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)


def test_every_route_asks_for_the_password_except_those_of_providers(
    app: DropConnectionMiddleware, client: TestClient
) -> None:
    routes = [route for route in app._app.routes if isinstance(route, Route)]  # type: ignore[attr-defined]
    assert len(routes) > 40
    for route in routes:
        path = re.sub(r"\{(\w+)(:int)?(:path)?\}", lambda match: "1" if match[2] else "x", route.path)
        for method in route.methods or ():
            status = client.request(method, path).status_code
            if route.path in OPEN:
                assert status != 401 or route.path.startswith(("/sms/", "/push/")), route.path
            else:
                assert status == 401, (method, route.path)
                assert client.request(method, path, auth=("sandbox", "guess")).status_code == 401
                assert client.request(method, path, headers={"Authorization": "Basic %%%"}).status_code == 401
    assert client.get("/no-such-page").status_code == 401


def test_the_password_opens_the_pages_and_its_stripe_key_the_api(client: TestClient) -> None:
    assert client.get("/", auth=("sandbox", PASSWORD)).status_code == 200
    assert client.get("/api/messages", auth=("anybody", PASSWORD)).json() == {"total": 0, "messages": []}
    intents = "/stripe/v1/payment_intents"
    assert client.get(intents, headers={"Authorization": "Bearer sk_test_sandbox"}).status_code == 401
    assert client.get(intents, headers={"Authorization": f"Bearer sk_test_{PASSWORD}"}).status_code == 200
    assert client.get(intents, auth=(f"sk_test_{PASSWORD}", "")).status_code == 200
    assert client.post("/webhooks/in/shop", json={}).status_code == 200


def test_login_without_a_password_is_refused_at_the_start(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sandbox.mail",
        "--login",
        "--smtp-port=0",
        "--web-port=0",
        "--maildir",
        str(tmp_path),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "BACKLINE_SANDBOX_PASSWORD"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (
        1, "mail catcher: --login needs a password in BACKLINE_SANDBOX_PASSWORD\n",
    )  # fmt: skip
