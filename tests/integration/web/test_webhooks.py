"""Webhook endpoints over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backline.settings import settings
from tests.integration.web.conftest import Api

PATH = "webhooks/endpoints"
URL = "https://shop.example/hooks"


@pytest.fixture(autouse=True)
def as_shipped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the embedded stack's settings, which allow its own sandbox."""
    for name in ("REQUIRE_HTTPS", "ALLOWED_ADDRESSES"):
        monkeypatch.delenv(f"BACKLINE__WEBHOOKS__{name}", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture(autouse=True)
def no_endpoints(api: Api) -> None:
    api.sql("TRUNCATE backline.webhook_endpoint CASCADE")
    api.sql("ALTER SEQUENCE backline.webhook_endpoint_id RESTART")


def add(api: Api, **fields: Any) -> dict[str, Any]:
    answer = api.post(PATH, {"url": URL, **fields}, "admin")
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def event(api: Api, event_type: str = "order.paid", to: str = "*") -> int:
    body = {"type": "webhook", "to": to, "payload": {"event_type": event_type, "data": {"order": "1042"}}}
    answer = api.post("messages", body)
    assert answer.status_code == 202, answer.text
    return int(answer.json()["messages"][0]["id"])


def test_the_life_of_an_endpoint(api: Api) -> None:
    made = api.post(PATH, {"url": URL, "event_types": ["order.*"], "description": "The shop's ERP"}, "admin")
    assert (made.status_code, made.headers["location"]) == (201, f"/backline/api/v1/{PATH}/ep_1")
    endpoint = made.json()
    assert endpoint.pop("secret").startswith("whsec_")
    assert api.get(f"{PATH}/ep_1").json() == endpoint
    assert api.get(PATH).json() == {"endpoints": [endpoint]}
    changed = api.call("PATCH", f"{PATH}/ep_1", "admin", json={"event_types": ["user.*"]}).json()
    assert changed == {**endpoint, "event_types": ["user.*"]}
    turned = api.post(f"{PATH}/ep_1/rotate", None, "admin").json()
    assert turned["secret"].startswith("whsec_")
    assert [secret["expires_at"] is None for secret in turned["secrets"]] == [True, False]
    event(api, "user.new")
    assert api.post(f"{PATH}/ep_1/disable", {"reason": "they move house"}).json() == {
        "id": "ep_1",
        "suppressed_count": 1,
    }
    disabled = api.get(f"{PATH}/ep_1").json()
    assert (disabled["state"], disabled["disabled_reason"]) == ("disabled", "they move house")
    again = api.post(f"{PATH}/ep_1/disable", {"reason": "again"})
    assert (again.status_code, again.json()["type"]) == (409, "urn:backline:problem:conflict")
    assert api.post(f"{PATH}/ep_1/test").status_code == 409
    assert api.post(f"{PATH}/ep_1/enable").json()["state"] == "active"
    assert api.call("DELETE", f"{PATH}/ep_1", "admin").json() == {"id": "ep_1", "suppressed_count": 0}
    assert api.get(f"{PATH}/ep_1").status_code == 404
    acts = api.get("audit-trail", "admin").json()["entries"]
    assert [act["action"] for act in acts if act["action"].startswith("webhook.")] == [
        "webhook.delete", "webhook.enable", "webhook.disable", "webhook.rotate", "webhook.update", "webhook.create",
    ]  # fmt: skip
    assert "whsec_" not in str(acts)


def test_v1a_shows_its_public_key(api: Api) -> None:
    made = add(api, scheme="v1a")
    assert made["secret"] is None
    assert made["secrets"][0]["public_key"].startswith("whpk_")
    assert (
        api.post(f"{PATH}/ep_1/rotate", {"scheme": "v1", "overlap_seconds": 0}, "admin").json()["secrets"][0]["scheme"]
        == "v1"
    )


def test_an_event_sent_over_http_shows_its_deliveries(api: Api) -> None:
    add(api)
    message = event(api)
    assert "to 1 endpoint: group" in api.get(f"messages/{message}").json()["why"]
    (sent,) = api.get(f"groups/{message}").json()["messages"]
    assert (sent["recipient"], sent["state"]) == ("ep_1", "pending")
    nobody = api.post("messages", {"type": "webhook", "to": "ep_2", "payload": {"event_type": "a", "data": {}}})
    assert (nobody.status_code, nobody.json()["errors"][0]["field"]) == (422, "to")
    assert "there is no webhook endpoint 'ep_2'" in nobody.json()["detail"]


def test_a_test_event(api: Api) -> None:
    add(api, event_types=["user.*"])
    answer = api.post(f"{PATH}/ep_1/test")
    assert (answer.status_code, answer.json()["count"]) == (202, 1)
    message = api.get(answer.json()["messages"][0]["url"].partition("/api/v1/")[2]).json()
    assert (message["payload"]["event_type"], message["recipient"]) == ("backline.test", "ep_1")


def test_replay_of_one_and_since(api: Api) -> None:
    since = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    missed = event(api)
    add(api)
    one = api.post(f"{PATH}/ep_1/replay", {"message": missed})
    assert (one.status_code, one.json()["count"]) == (202, 1)
    assert api.post(f"{PATH}/ep_1/replay", {"since": since}).json()["count"] == 0
    everything = api.post(f"{PATH}/ep_1/replay", {"since": since, "include_delivered": True}).json()
    assert everything["count"] == 1
    again = api.get(everything["messages"][0]["url"].partition("/api/v1/")[2]).json()
    assert again["payload"] == api.get(f"messages/{missed}").json()["payload"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("", {"url": "http://shop.example/"}, "url"),
        ("", {"url": "https://169.254.169.254/latest"}, "url"),
        ("", {}, "url"),
        ("", {"url": URL, "secret": "mine"}, "secret"),
        ("", {"url": URL, "scheme": "v3"}, "scheme"),
        ("", {"url": URL, "event_types": "order.paid"}, "event_types"),
        ("/ep_1/rotate", {"overlap_seconds": -1}, "overlap_seconds"),
        ("/ep_1/disable", {"reason": " "}, "reason"),
        ("/ep_1/replay", {}, "message"),
        ("/ep_1/replay", {"message": 1, "since": "2026-01-01T00:00:00Z"}, "message"),
        ("/ep_1/replay", {"message": 1, "include_delivered": True}, "include_delivered"),
        ("/ep_1/replay", {"since": "yesterday"}, "since"),
        ("/ep_1/replay", {"message": 999}, "message"),
    ],
)
def test_invalid_input_names_its_field(api: Api, path: str, body: dict[str, Any], field: str) -> None:
    add(api)
    answer = api.post(PATH + path, body, "admin")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


@pytest.mark.parametrize("path", ["ep_9", "ep_9/test", "ep_9/enable"])
def test_an_unknown_endpoint_is_a_404(api: Api, path: str) -> None:
    answer = api.call("GET" if path == "ep_9" else "POST", f"{PATH}/{path}", "admin")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:backline:problem:not-found")
