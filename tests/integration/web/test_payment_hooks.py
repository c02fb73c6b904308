"""Payment providers' events: authenticated by signature, and stored once before the response."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from httpx import Response

from backline.web.settings import HookSettings
from backline.web.urls import PREFIX
from tests.integration.web.conftest import Api
from tests.unit.payments.signing import (
    RAZORPAY_SECRET,
    STRIPE_SECRET,
    as_body,
    intent_event,
    razorpay_event,
    razorpay_headers,
    stripe_headers,
)

OPEN = HookSettings(stripe_connection="stripe_hooks", razorpay_connection="razorpay_hooks")


@pytest.fixture
def open_hooks(api: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    for name, secret in (("STRIPE", STRIPE_SECRET), ("RAZORPAY", RAZORPAY_SECRET)):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}_HOOKS", json.dumps({"conn_type": "http", "password": secret}))
    api.app.state.hooks = OPEN
    api.sql("TRUNCATE app.payment_events")
    return api


def post(api: Api, name: str, body: bytes, headers: dict[str, str]) -> Response:
    return api.call("POST", f"{PREFIX}/hooks/{name}", None, content=body, headers=headers)


def signed(name: str, at: datetime, event_id: str = "evt_1") -> tuple[bytes, dict[str, str]]:
    if name == "stripe":
        body = as_body(intent_event(event_id, "payment_intent.succeeded", at, reference="pi_1", amount=1))
        return body, stripe_headers(body, at)
    body = as_body(razorpay_event("payment.captured", at, payment="pay_1", amount=1))
    return body, razorpay_headers(body, event_id)


def stored_events(api: Api) -> list[tuple[str, str, str]]:
    rows = api.sql("SELECT provider, event_id, type FROM app.payment_events ORDER BY id")
    return [(row["provider"], row["event_id"], row["type"]) for row in rows]


@pytest.mark.parametrize("name", ["stripe", "razorpay"])
def test_a_hook_is_disabled_until_it_is_configured(api: Api, name: str) -> None:
    api.app.state.hooks = HookSettings()  # none is set, as shipped
    answer = post(api, name, *signed(name, datetime.now(UTC)))
    assert (answer.status_code, answer.json()["detail"]) == (404, "This hook is not enabled")


@pytest.mark.parametrize(("name", "kind"), [("stripe", "payment_intent.succeeded"), ("razorpay", "payment.captured")])
def test_an_event_is_stored_once_unchanged(open_hooks: Api, name: str, kind: str) -> None:
    body, headers = signed(name, datetime.now(UTC))
    for _ in range(3):
        assert post(open_hooks, name, body, headers).status_code == 204
    assert stored_events(open_hooks) == [(name, "evt_1", kind)]
    [row] = open_hooks.sql("SELECT body, processed_at, problem FROM app.payment_events")
    assert row == {"body": json.loads(body), "processed_at": None, "problem": None}


@pytest.mark.parametrize("name", ["stripe", "razorpay"])
def test_an_invalid_signature_is_refused_and_not_stored(open_hooks: Api, name: str) -> None:
    now = datetime.now(UTC)
    body, headers = signed(name, now)
    forged = [
        (body + b" ", headers),
        (body, {}),
        (body, stripe_headers(body, now, "other") | razorpay_headers(body, "e", "other")),
    ]
    if name == "stripe":
        forged.append((body, stripe_headers(body, now - timedelta(seconds=301))))
    for given in forged:
        answer = post(open_hooks, name, *given)
        assert answer.status_code == 403
        assert answer.json()["detail"] == "The signature is not valid; the api-server's log has the reason."
    assert stored_events(open_hooks) == []


@pytest.mark.parametrize("name", ["stripe", "razorpay"])
def test_the_body_size_is_limited_without_a_login(open_hooks: Api, name: str) -> None:
    assert post(open_hooks, name, b" " * (2 * 2**20 + 1), {}).status_code == 413


def test_an_event_is_confirmed_only_after_it_is_stored(open_hooks: Api) -> None:
    body, headers = signed("stripe", datetime.now(UTC))
    open_hooks.sql("ALTER TABLE app.payment_events RENAME TO away")
    try:
        assert post(open_hooks, "stripe", body, headers).status_code >= 500
    finally:
        open_hooks.sql("ALTER TABLE app.away RENAME TO payment_events")
    assert post(open_hooks, "stripe", body, headers).status_code == 204
    assert len(stored_events(open_hooks)) == 1
