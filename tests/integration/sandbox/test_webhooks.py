"""The sandbox's webhook endpoint: received requests, fault rules, the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sandbox.mail.faults import MailFaults
from sandbox.mail.mailbox import Mailbox
from sandbox.mail.web import build_app

EVENT = {"type": "order.paid", "timestamp": "2026-03-01T18:30:00.000Z", "data": {"order": "<b>1042</b>"}}


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return TestClient(build_app(Mailbox(tmp_path), MailFaults()), base_url="http://127.0.0.1", follow_redirects=False)


def list_received(client: TestClient, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/webhooks/api/requests{query}").json()["requests"]
    return found


def test_a_request_is_accepted_and_shown(client: TestClient) -> None:
    answer = client.post("/webhooks/in/shop/orders", json=EVENT, headers={"webhook-id": "evt_1"})
    assert (answer.status_code, answer.text) == (200, "accepted")
    client.post("/webhooks/in/other", content=b"no JSON")
    first, second = list_received(client)
    assert (first["name"], first["headers"]["webhook-id"], first["status"]) == ("shop/orders", "evt_1", 200)
    assert second["body"] == "no JSON"
    assert list_received(client, "?name=shop*") == [first]
    assert list_received(client, f"?since={first['id']}") == [second]
    assert len(list_received(client, "?limit=1")) == 1
    page = client.get("/webhooks").text
    assert "order.paid" in page
    assert "&lt;b&gt;1042" in page
    assert "<b>1042" not in page
    assert client.delete("/webhooks/api/requests").json() == {"deleted": 2}
    assert list_received(client) == []


def test_the_first_rule_that_matches_applies(client: TestClient) -> None:
    rules = [{"name": "shop*", "status": 503, "retry_after": 5, "times": 2}, {"name": "gone", "status": 410}]
    assert client.put("/webhooks/faults", json=rules).status_code == 200
    answers = [client.post("/webhooks/in/shop", json=EVENT) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].headers["retry-after"] == "5"
    assert client.post("/webhooks/in/gone", json=EVENT).status_code == 410
    assert client.post("/webhooks/in/well", json=EVENT).status_code == 200
    assert [rule["fired"] for rule in client.get("/webhooks/faults").json()] == [2, 1]
    assert [one["status"] for one in list_received(client)] == [503, 503, 200, 410, 200]
    client.delete("/webhooks/faults")
    assert client.post("/webhooks/in/gone", json=EVENT).status_code == 200


@pytest.mark.parametrize(
    ("rules", "detail"),
    [
        ([{"status": 99}], "[0].status: "),
        ([{"name": ""}], "[0].name: "),
        ([{"staus": 503}], "[0].staus: "),
        ({"status": 503}, "body: "),
        ([{}] * 101, "body: should have at most 100"),
    ],
)
def test_invalid_rules_are_rejected_by_field(client: TestClient, rules: Any, detail: str) -> None:
    answer = client.put("/webhooks/faults", json=rules)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(detail)


def test_the_pages_buttons_create_rules(client: TestClient) -> None:
    assert (
        client.post("/webhooks/fault-injection", data={"kind": "410", "name": "shop", "times": "1"}).status_code == 303
    )
    assert client.post("/webhooks/in/shop", json=EVENT).status_code == 410
    assert client.post("/webhooks/in/shop", json=EVENT).status_code == 200
    assert client.post("/webhooks/fault-injection", data={"kind": "nothing"}).status_code == 400
    assert client.post("/webhooks/fault-injection", data={"kind": "404", "times": "often"}).status_code == 400
    assert client.post("/webhooks/fault-injection", data={"kind": "drop", "times": "1"}).status_code == 303
    assert "drops the connection instead of 503" in client.get("/webhooks").text
    assert client.post("/webhooks/fault-injection/clear").status_code == 303
    assert client.get("/webhooks/faults").json() == []
    assert client.post("/webhooks/empty").status_code == 303
    assert list_received(client) == []


def test_another_site_cannot_post(client: TestClient) -> None:
    answer = client.post("/webhooks/in/shop", json=EVENT, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert list_received(client) == []
