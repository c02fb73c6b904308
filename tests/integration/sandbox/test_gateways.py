"""The sandbox's SMS and push gateways: a real process over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest

from tests.integration.channels.sandbox import Sandbox, service_key

MESSAGES_PATH = "/sms/2010-04-01/Accounts/ACsandbox/Messages.json"
PUSH_PATH = "/push/v1/projects/shop/messages:send"
ANN = "+4915112345678"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox.start(tmp_path_factory.mktemp("mail") / "box")
    yield sandbox
    sandbox.stop()


@pytest.fixture
def gateway_client(running: Sandbox) -> httpx.Client:
    for name in ("sms", "push"):
        running.web.delete(f"/{name}/faults").raise_for_status()
        running.web.delete(f"/{name}/api/messages").raise_for_status()
    return running.web


def send_text(
    gateway_client: httpx.Client, auth: tuple[str, str] | None = ("ACsandbox", "sandbox"), **form: str
) -> httpx.Response:
    data = {"To": ANN, "From": "Shop", "Body": "Hello", **form}
    return gateway_client.post(MESSAGES_PATH, data=data, auth=auth or httpx.Auth())


def assertion(**claims: Any) -> dict[str, str]:
    now = int(time.time())
    scope = "https://www.googleapis.com/auth/firebase.messaging"
    claims = {"iss": "backline@shop.example", "scope": scope, "aud": "x", "iat": now, "exp": now + 3600, **claims}
    signed = jwt.encode(claims, service_key(), algorithm="RS256")
    return {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": signed}


def send_push(gateway_client: httpx.Client, message: object, token: str | None = None) -> httpx.Response:
    bearer = token or gateway_client.post("/push/token", data=assertion()).json()["access_token"]
    return gateway_client.post(PUSH_PATH, json={"message": message}, headers={"Authorization": f"Bearer {bearer}"})


def test_a_text_is_stored_and_shown(gateway_client: httpx.Client) -> None:
    answer = send_text(gateway_client, Body="Grüße <b>😀</b>")
    assert answer.status_code == 201
    made = answer.json()
    assert (made["status"], made["num_segments"], made["to"]) == ("queued", "1", ANN)
    [found] = gateway_client.get("/sms/api/messages", params={"to": "+4915*", "text": "GRÜSSE"[:3]}).json()["messages"]
    assert (found["to"], found["text"], found["sid"]) == (ANN, "Grüße <b>😀</b>", made["sid"])
    assert found["form"] == {"From": "Shop"}
    assert "Grüße &lt;b&gt;" in gateway_client.get("/sms/").text
    page = gateway_client.get(f"/sms/messages/{found['id']}")
    assert made["sid"] in page.text
    assert "<b>" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert gateway_client.get("/sms/api/count", params={"since": found["arrived_at"] + 1}).json() == {"count": 0}


@pytest.mark.parametrize(
    ("form", "auth", "status", "code"),
    [
        ({}, None, 401, 20003),
        ({}, ("ACsandbox", "wrong"), 401, 20003),
        ({"To": "015112345678"}, ("ACsandbox", "sandbox"), 400, 21211),
        ({"Body": " "}, ("ACsandbox", "sandbox"), 400, 21602),
        ({"From": ""}, ("ACsandbox", "sandbox"), 400, 21603),
        ({"Body": "a" * 1601}, ("ACsandbox", "sandbox"), 400, 21617),
    ],
)
def test_a_text_that_twilio_would_reject_is_rejected(
    gateway_client: httpx.Client, form: dict[str, str], auth: tuple[str, str] | None, status: int, code: int
) -> None:
    answer = send_text(gateway_client, auth, **form)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert gateway_client.get("/sms/api/count").json() == {"count": 0}


@pytest.mark.parametrize(
    ("body", "segments"), [("a" * 160, 1), ("a" * 161, 2), ("€" * 80, 1), ("€" * 81, 2), ("я" * 70, 1), ("я" * 71, 2)]
)
def test_texts_are_billed_by_segments(gateway_client: httpx.Client, body: str, segments: int) -> None:
    assert send_text(gateway_client, Body=body).json()["num_segments"] == str(segments)


def test_a_notification_is_stored_and_shown(gateway_client: httpx.Client) -> None:
    notification = {"title": "On its way", "body": "Today"}
    answer = send_push(gateway_client, {"token": "device-1", "notification": notification, "data": {"order": "7"}})
    assert answer.json()["name"].startswith("projects/shop/messages/")
    [found] = gateway_client.get("/push/api/messages", params={"to": "device-1"}).json()["messages"]
    assert (found["title"], found["text"], found["message"]) == ("On its way", "Today", {"data": {"order": "7"}})
    assert "On its way" in gateway_client.get("/push/").text
    assert "&#34;order&#34;: &#34;7&#34;" in gateway_client.get(f"/push/messages/{found['id']}").text


@pytest.mark.parametrize(
    ("message", "token", "status"),
    [
        ({"token": "d", "notification": {"title": "T", "body": "B"}}, "wrong", 401),
        ({"notification": {"title": "T", "body": "B"}}, None, 400),
        ({"token": "d", "notification": {"title": "T", "body": "B"}, "data": {"order": 7}}, None, 400),
        ([], None, 400),
    ],
)
def test_a_notification_that_fcm_would_reject_is_rejected(
    gateway_client: httpx.Client, message: object, token: str | None, status: int
) -> None:
    answer = send_push(gateway_client, message, token)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {**assertion(), "grant_type": "password"},
        {**assertion(), "assertion": "x.y.z"},
        assertion(exp=1),
        assertion(scope="all"),
        assertion(iss=""),
    ],
)
def test_a_token_needs_a_complete_assertion(gateway_client: httpx.Client, form: dict[str, str]) -> None:
    answer = gateway_client.post("/push/token", data=form)
    assert answer.status_code == 400
    assert answer.json()["error"] in {"unsupported_grant_type", "invalid_grant"}


def test_fault_rules_fire_in_order_and_as_often_as_set(gateway_client: httpx.Client) -> None:
    rules = [{"recipient": "+4915*", "status": 429, "retry_after": 5, "times": 2}, {"recipient": "+43*", "status": 500}]
    shown = gateway_client.put("/sms/faults", json=rules).json()
    assert [(rule["status"], rule["remaining"]) for rule in shown] == [(429, 2), (500, None)]
    first = send_text(gateway_client)
    assert (first.status_code, first.headers["retry-after"]) == (429, "5")
    assert [send_text(gateway_client).status_code for _ in range(2)] == [429, 201]
    assert send_text(gateway_client, To="+436641234567").status_code == 500
    assert [rule["fired"] for rule in gateway_client.get("/sms/faults").json()] == [2, 1]


def test_a_dropped_connection_has_no_response_and_the_process_continues(gateway_client: httpx.Client) -> None:
    for after, stored in ((False, 0), (True, 1)):
        gateway_client.put("/sms/faults", json=[{"action": "drop", "after": after, "times": 1}]).raise_for_status()
        with pytest.raises(httpx.RemoteProtocolError):
            send_text(gateway_client)
        assert gateway_client.get("/sms/api/count").json() == {"count": stored}
    assert send_text(gateway_client).status_code == 201


@pytest.mark.parametrize(
    ("rules", "detail"),
    [
        ([{"status": 99}], "[0].status: should be"),
        ([{"stauts": 500}], "[0].stauts: unknown field"),
        ([{"after": True}], "[0].after: should be true or false"),
        ({}, "body: should be a list of rules"),
        ([5], "[0]: should be an object"),
    ],
)
def test_invalid_rules_are_rejected_by_field(gateway_client: httpx.Client, rules: object, detail: str) -> None:
    answer = gateway_client.put("/push/faults", json=rules)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(detail)


@pytest.mark.parametrize("name", ["sms", "push"])
def test_each_button_of_the_page_creates_a_rule(gateway_client: httpx.Client, name: str) -> None:
    page = gateway_client.get(f"/{name}/fault-injection").text
    kinds = [part.partition('"')[0] for part in page.split('name="kind" value="')[1:]]
    assert {"busy", "down", "refused", "slow", "drop", "drop after"} <= set(kinds)
    for kind in kinds:
        form = {"kind": kind, "recipient": "*", "times": "1", "probability": ""}
        answer = gateway_client.post(
            f"/{name}/fault-injection", data={key: value for key, value in form.items() if value}
        )
        assert (answer.status_code, answer.headers["location"]) == (303, f"/{name}/fault-injection")
    assert len(gateway_client.get(f"/{name}/faults").json()) == len(kinds)
    assert "active fault rules" in gateway_client.get(f"/{name}/").text
    assert gateway_client.post(f"/{name}/fault-injection", data={"kind": "burn"}).status_code == 400
    assert gateway_client.post(f"/{name}/fault-injection/clear").status_code == 303
    assert gateway_client.get(f"/{name}/faults").json() == []


def test_another_site_cannot_change_anything(gateway_client: httpx.Client) -> None:
    answer = gateway_client.post("/sms/empty", headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert gateway_client.get("/sms/", headers={"Host": "evil.example"}).status_code == 400
    assert gateway_client.get("/sms/messages/1").status_code == 404
