"""Providers' delivery events, from the signed request to the message's timeline and the suppression list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.routing import APIRoute
from httpx import Response

from backline.delivery_events import sendgrid, ses, twilio
from backline.outbox import queries
from backline.web import hooks
from backline.web.settings import HookSettings
from backline.web.urls import PREFIX
from tests.integration.web.conftest import Api
from tests.unit.delivery_events.fake_sns import TOPIC, FakeSns
from tests.unit.delivery_events.test_providers import (
    PUBLIC,
    mailgun_event,
    mailgun_request,
    sendgrid_event,
    sendgrid_request,
    twilio_form,
    twilio_signature,
)

ANN = "ann@example.com"
NOW = datetime.now(UTC)
STAMP = str(int(NOW.timestamp()))
OPEN = HookSettings(
    ses_topic_arns=(TOPIC,),
    sendgrid_public_key=PUBLIC,
    mailgun_connection="mailgun_hooks",
    twilio_connection="sms_gateway",
)


@pytest.fixture
def open_hooks(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSns]:
    """All hooks enabled; Amazon is a fake."""
    monkeypatch.setenv("AIRFLOW_CONN_MAILGUN_HOOKS", json.dumps({"conn_type": "http", "password": "signing-key"}))
    monkeypatch.setenv("AIRFLOW_CONN_SMS_GATEWAY", json.dumps({"conn_type": "http", "password": "auth-token"}))
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://mail.shop.example/")
    amazon = FakeSns(NOW)
    api.app.state.hooks = OPEN
    api.app.dependency_overrides |= {
        hooks.certificate_cache: lambda: ses.CertificateCache(amazon.fetch),
    }
    yield amazon
    api.app.dependency_overrides.clear()


@pytest.fixture
def message(api: Api) -> tuple[int, str]:
    """A message that was sent, and its Message-ID."""
    [row] = api.sql('SELECT backline.enqueue(\'email\', %s, \'{"subject": "Hello", "text": "Hi"}\') AS id', ANN)
    [made] = api.sql(
        "UPDATE backline.message SET state = 'sent', attempt = 1, finalized_at = clock_timestamp() WHERE id = %s RETURNING created_at",
        row["id"],
    )
    created = round(made["created_at"].timestamp() * 1_000_000)
    return row["id"], f"<backline.{row['id']}.{created}@shop.example>"


def hook(api: Api, name: str, body: bytes, headers: dict[str, str] | None = None) -> Response:
    return api.call("POST", f"{PREFIX}/hooks/{name}", None, content=body, headers=headers or {})


def gun_now(event: str, token: str = "t" * 50, **details: Any) -> bytes:
    return mailgun_request({**mailgun_event(event, **details), "timestamp": NOW.timestamp()}, token=token, stamp=STAMP)


def grid_now(*events: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    return sendgrid_request(*({**event, "timestamp": int(STAMP)} for event in events), stamp=STAMP)


def suppressed(api: Api) -> list[tuple[str, str, str, str]]:
    rows = api.sql("SELECT channel, address, reason, source FROM backline.suppression ORDER BY id")
    return [(row["channel"], row["address"], row["reason"], row["source"]) for row in rows]


def test_hooks_are_disabled_until_they_are_configured(api: Api) -> None:
    for name in ("ses", "sendgrid", "mailgun", "twilio"):
        answer = hook(api, name, b"{}")
        assert answer.status_code == 404
        assert answer.json()["detail"] == "This hook is not enabled"


@pytest.mark.usefixtures("open_hooks")
def test_a_hard_bounce_is_stored_suppresses_and_is_in_the_timeline(api: Api, message: tuple[int, str]) -> None:
    message_id, header = message
    bounced = sendgrid_event(
        "bounce", status="5.1.1", reason="550 unknown", **{"smtp-id": header, "email": "Ann@Example.com"}
    )
    headers, body = grid_now(bounced, sendgrid_event("delivered", **{"smtp-id": header, "sg_event_id": "e0"}))
    assert hook(api, "sendgrid", body, headers).status_code == 204
    assert suppressed(api) == [("email", ANN, "hard_bounce", "sendgrid")]
    assert api.sql("SELECT message_id FROM backline.suppression")[0]["message_id"] == message_id
    found = queries.get_message(api.connection, message_id)
    assert found is not None
    assert "; it bounced permanently at " in found.explanation
    assert found.explanation.endswith("(reported by sendgrid: 5.1.1 550 unknown).")
    assert {"delivered", "bounced"} <= {event.event for event in found.timeline}
    shown = api.get(f"messages/{message_id}").json()
    assert {event["event"] for event in shown["timeline"]} >= {"accepted", "sent", "bounced", "delivered"}


@pytest.mark.usefixtures("open_hooks")
def test_a_repeated_event_is_stored_once(api: Api, message: tuple[int, str]) -> None:
    headers, body = grid_now(*[sendgrid_event("spamreport", **{"smtp-id": message[1]})] * 2)
    for _ in range(2):
        assert hook(api, "sendgrid", body, headers).status_code == 204
    assert len(api.sql("SELECT 1 AS one FROM backline.delivery_event")) == 1
    api.sql("DELETE FROM backline.suppression")  # an operator removed it
    hook(api, "sendgrid", body, headers)
    assert suppressed(api) == []


def test_an_event_of_amazon_ses_is_stored(api: Api, open_hooks: FakeSns, message: tuple[int, str]) -> None:
    event = {
        "eventType": "Complaint",
        "mail": {"messageId": "0100018", "timestamp": NOW.isoformat(), "headers": [{"name": "Message-ID", "value": message[1]}]},
        "complaint": {"timestamp": NOW.isoformat(), "complainedRecipients": [{"emailAddress": ANN}], "complaintFeedbackType": "abuse"},
    }  # fmt: skip
    body = open_hooks.notification(event)
    headers = {"Content-Type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": "Notification"}
    assert hook(api, "ses", body, headers).status_code == 204
    assert suppressed(api) == [("email", ANN, "complaint", "ses")]
    found = queries.get_message(api.connection, message[0])
    assert found is not None
    assert "the recipient reported it as spam" in found.explanation


def test_amazons_subscription_is_confirmed(api: Api, open_hooks: FakeSns) -> None:
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return open_hooks.fetch(url) if url.endswith(".pem") else b"<ConfirmSubscriptionResponse/>"

    api.app.dependency_overrides[hooks.certificate_cache] = lambda: ses.CertificateCache(fetch)
    url = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=t"
    assert hook(api, "ses", open_hooks.confirmation(url)).status_code == 204
    assert asked[-1] == url


@pytest.mark.usefixtures("open_hooks")
def test_an_event_of_mailgun_is_stored_and_its_token_is_accepted_once(api: Api, message: tuple[int, str]) -> None:
    inner: dict[str, Any] = {"message": {"headers": {"message-id": message[1].strip("<>")}}}
    assert hook(api, "mailgun", gun_now("delivered", **inner)).status_code == 204
    forged = gun_now("complained", recipient="victim@example.com")  # the signature is not over the event
    assert hook(api, "mailgun", forged).status_code == 204
    assert suppressed(api) == []
    assert [row["event"] for row in api.sql("SELECT event FROM backline.delivery_event")] == ["delivered"]
    assert hook(api, "mailgun", gun_now("unsubscribed", token="u" * 50, **inner)).status_code == 204
    assert [(row["topic"], row["source"]) for row in api.sql("SELECT topic, source FROM backline.opt_out")] == [("*", "mailgun")]  # fmt: skip


@pytest.mark.usefixtures("open_hooks")
def test_an_event_of_twilio_is_matched_by_its_id_even_before_the_message_is_sent(api: Api) -> None:
    form = twilio_form("undelivered", ErrorCode="30005")
    url = "https://mail.shop.example/backline/hooks/twilio?to=1"
    headers = {
        twilio.SIGNATURE_HEADER: twilio_signature(url, form),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    answer = api.call("POST", f"{PREFIX}/hooks/twilio?to=1", None, content=urlencode(form).encode(), headers=headers)
    assert answer.status_code == 204
    assert suppressed(api) == [("sms", "+491701234567", "hard_bounce", "twilio")]
    [row] = api.sql('SELECT backline.enqueue(\'email\', %s, \'{"subject": "Hello", "text": "Hi"}\') AS id', ANN)
    api.sql("UPDATE backline.message SET channel = 'sms', provider_id = 'SM1' WHERE id = %s", row["id"])
    found = queries.get_message(api.connection, row["id"])
    assert found is not None
    assert "bounced" in {event.event for event in found.timeline}


FORGED: dict[str, Callable[[FakeSns], tuple[str, bytes, dict[str, str]]]] = {
    "ses": lambda amazon: ("ses", amazon.notification({"eventType": "Bounce"}).replace(b"n-1", b"n-2"), {}),
    "sendgrid": lambda _: (
        "sendgrid",
        grid_now(sendgrid_event("spamreport"))[1] + b" ",
        grid_now(sendgrid_event("spamreport"))[0],
    ),
    "mailgun": lambda _: ("mailgun", mailgun_request(mailgun_event("complained"), key="other", stamp=STAMP), {}),
    "twilio": lambda _: ("twilio", urlencode(twilio_form("failed")).encode(), {twilio.SIGNATURE_HEADER: "AAAA"}),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_an_invalid_signature_is_refused_without_details(
    api: Api, open_hooks: FakeSns, forge: Callable[[FakeSns], tuple[str, bytes, dict[str, str]]]
) -> None:
    answer = hook(api, *forge(open_hooks))
    assert answer.status_code == 403
    assert answer.json()["detail"] == "The signature is not valid; the api-server's log has the reason."
    assert api.sql("SELECT 1 AS one FROM backline.delivery_event") == []
    assert suppressed(api) == []


@pytest.mark.usefixtures("open_hooks")
def test_a_forged_message_id_matches_no_message(api: Api, message: tuple[int, str]) -> None:
    headers, body = grid_now(sendgrid_event("bounce", **{"smtp-id": f"<backline.{message[0]}.1@shop.example>"}))
    assert hook(api, "sendgrid", body, headers).status_code == 204
    assert api.sql("SELECT message_id FROM backline.delivery_event") == [{"message_id": None}]
    assert len(suppressed(api)) == 1


@pytest.mark.usefixtures("open_hooks")
def test_an_event_is_confirmed_only_after_it_is_stored(api: Api, message: tuple[int, str]) -> None:
    headers, body = grid_now(sendgrid_event("spamreport", **{"smtp-id": message[1]}))
    api.sql("ALTER TABLE backline.delivery_event RENAME TO away")
    try:
        assert hook(api, "sendgrid", body, headers).status_code >= 500
    finally:
        api.sql("ALTER TABLE backline.away RENAME TO delivery_event")
    assert hook(api, "sendgrid", body, headers).status_code == 204
    assert len(suppressed(api)) == 1


@pytest.mark.usefixtures("open_hooks")
def test_the_body_size_is_limited_without_a_login(api: Api) -> None:
    body = b"[" + b" " * (2 * 2**20) + b"]"
    for name in ("sendgrid", "mailgun"):
        assert hook(api, name, body).status_code == 413


ROUTES = sorted(route.path.rpartition("/")[2] for route in hooks.router.routes if isinstance(route, APIRoute))
HEADERS = (
    twilio.SIGNATURE_HEADER, sendgrid.SIGNATURE_HEADER, sendgrid.TIMESTAMP_HEADER, "Stripe-Signature", "X-Razorpay-Signature",
    "X-Razorpay-Event-Id", "Content-Type",
)  # fmt: skip
ODD_BYTES = (
    b"", b"{}", b"[]", b"null", b"\xff", b"\xc3\xa9", b"[" * 100_000, b'{"a":' * 5000, b'{"n":1e400}', b"NaN", b"1" * 10_000,
    b'{"id":"\\ud83d","type":"\\u0000","created":1e99}', b"&=&", b"t=1700000000,v1=\xe9", b"x" * 5000,
)  # fmt: skip


@pytest.mark.usefixtures("open_hooks")
@pytest.mark.parametrize("name", ROUTES)
def test_no_odd_bytes_in_a_header_or_body_are_more_than_a_refusal(
    api: Api, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for connection in ("STRIPE_HOOKS", "RAZORPAY_HOOKS"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{connection}", json.dumps({"conn_type": "http", "password": "whsec_x"}))
    opened = replace_settings(OPEN, stripe_connection="stripe_hooks", razorpay_connection="razorpay_hooks")
    api.app.state.hooks = opened
    for odd in ODD_BYTES:
        for header in HEADERS:
            given = {header: odd.replace(b"\n", b"")[:6000]}
            answer = api.call("POST", f"{PREFIX}/hooks/{name}", None, content=b"{}", headers=given)
            assert 400 <= answer.status_code < 500, (header, odd[:40], answer.text)
        answer = api.call("POST", f"{PREFIX}/hooks/{name}", None, content=odd, headers={})
        assert 400 <= answer.status_code < 500, (odd[:40], answer.text)


def replace_settings(settings: HookSettings, **changes: str) -> HookSettings:
    return settings.model_copy(update=changes)
