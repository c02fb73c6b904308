"""The HTTP API of a running stack, over real HTTP, with Airflow's users."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from backline.settings import ROOT
from demo.check import wait_until
from demo.context import DemoContext
from stack.paths import Paths
from stack.secrets import load_or_create
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack

API = "/backline/api/v1"


@pytest.fixture
def http(stack_exports: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack_exports["BACKLINE_URL"], timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def tokens(stack: IsolatedStack, http: httpx.Client) -> dict[str, dict[str, str]]:
    """Airflow tokens of a viewer and an op, as headers."""
    secrets = load_or_create(Paths(ROOT, stack.home, stack.port).secrets_file)
    passwords = {"viewer": secrets.viewer_password, "op": secrets.op_password}
    return {
        user: {
            "Authorization": "Bearer "
            + http.post("/auth/token", json={"username": user, "password": password}).json()["access_token"]
        }
        for user, password in passwords.items()
    }


def welcome_message(domain: str) -> dict[str, Any]:
    return {"type": "welcome", "to": f"ann@{domain}", "payload": {"name": "Ann by HTTP"}}


def test_a_message_over_http_arrives_and_is_explained(
    http: httpx.Client, tokens: dict[str, dict[str, str]], context: DemoContext, stack: IsolatedStack
) -> None:
    domain = context.domain("http")
    assert http.get("/backline/readyz").json() == {"status": "ok"}
    assert http.post(f"{API}/messages", json=welcome_message(domain)).status_code == 401
    assert http.post(f"{API}/messages", json=welcome_message(domain), headers=tokens["viewer"]).status_code == 403
    accepted = http.post(
        f"{API}/messages", json=welcome_message(domain), headers={**tokens["op"], "X-Request-ID": "signup-1"}
    )
    assert accepted.status_code == 202
    (arrival,) = context.wait_for_emails(domain, 1)
    assert "Ann by HTTP" in context.mail.get_email(arrival.id).text

    def details() -> dict[str, Any]:
        found: dict[str, Any] = http.get(accepted.headers["Location"], headers=tokens["viewer"]).json()
        return found

    wait_until(lambda: details()["state"] == "sent", "the message to be sent")
    found = details()
    assert found["why"].startswith("Sent at ")
    assert "accepted from op by request signup-1" in found["timeline"][0]["text"]
    (attempt,) = [event["attempt"] for event in found["timeline"] if event["attempt"]]
    assert attempt["code"].startswith("250")
    assert attempt["log"].startswith("/dags/dispatch_email/runs/")
    assert http.get(attempt["log"]).status_code == 200
    inspected = json.loads(stack.run("inspect", str(found["id"]), "--json").stdout)
    assert (inspected["state"], inspected["why"]) == ("sent", found["why"])
    assert found["why"] in stack.run("inspect", str(found["id"])).stdout
    assert "no message 999999999" in stack.run("inspect", "999999999", check=False).stderr


def test_a_batch_over_http_arrives(http: httpx.Client, tokens: dict[str, dict[str, str]], context: DemoContext) -> None:
    domain = context.domain("http-batch")
    batch = [{**welcome_message(domain), "to": f"reader-{number}@{domain}"} for number in range(200)]
    key = {**tokens["op"], "Idempotency-Key": context.run_id("batch")}
    first = http.post(f"{API}/messages", json=batch, headers=key)
    assert http.post(f"{API}/messages", json=batch, headers=key).json()["messages"] == first.json()["messages"]
    arrived = context.wait_for_emails(domain, 200)
    assert sorted(arrival.recipients[0] for arrival in arrived) == sorted(one["to"] for one in batch)
