"""Odd bytes in every header, parameter, path and body field of every route: never a 5xx. The routes are those of the document.

A failure names the seed; FUZZ_SEED repeats it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from backline.delivery_events import twilio
from backline.web import hooks
from backline.web.urls import PREFIX
from testkit.http_fuzz import COMMON_HEADERS, ODD_JSON, OddRequest, odd_request, operations
from tests.integration.web.asgi import Answer, arriving, request
from tests.integration.web.conftest import NOW, SNS, Api
from tests.unit.delivery_events.test_providers import (
    mailgun_event,
    mailgun_request,
    sendgrid_event,
    sendgrid_request,
    twilio_form,
    twilio_signature,
)
from tests.unit.payments.signing import (
    as_body,
    intent_event,
    razorpay_event,
    razorpay_headers,
    stripe_headers,
)

pytestmark = pytest.mark.usefixtures("airflow_tables")
SECONDS = [
    8,
    pytest.param(60, marks=pytest.mark.extended),
    pytest.param(900, marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
]
HOOKS = [route for route in hooks.router.routes if isinstance(route, APIRoute)]
MAIL = {
    "messageId": "1",
    "timestamp": NOW.isoformat(),
    "destination": ["a@b.example"],
    "headers": [{"name": "Message-ID", "value": "x"}],
}


def seeded() -> tuple[Random, str]:
    seed = os.environ.get("FUZZ_SEED") or str(time.time_ns())
    return Random(seed), f"FUZZ_SEED={seed}"


def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"{PREFIX}/openapi.json", None).json()
    return found


@pytest.mark.parametrize("seconds", SECONDS)
def test_no_odd_request_is_a_server_error(open_api: Api, seconds: float) -> None:
    known = list(operations(document(open_api)))
    assert len(known) == sum(len(route.methods) for route in open_api.app.routes if isinstance(route, APIRoute))
    random, seed = seeded()

    async def send() -> set[tuple[str, str]]:
        until, reached = time.monotonic() + seconds, set()
        while time.monotonic() < until:
            one = odd_request(known, random)
            answer = await send_odd(open_api, one, random.choice((*open_api.tokens, None)))
            assert answer.status < 500, (seed, one, answer.body)
            assert len(answer.body) < 200_000 or answer.status == 200, (seed, one)
            reached.add((one.method, str(answer.status)))
        return reached

    reached = asyncio.run(send())
    assert {status for _, status in reached} > {"200", "400", "401", "403", "404", "422"}, seed


async def send_odd(api: Api, one: OddRequest, role: str | None) -> Answer:
    headers = dict(one.headers)
    if role is not None:
        headers.setdefault("Authorization", f"Bearer {api.tokens[role]}".encode())
    return await request(api.client.app, one.method, f"{PREFIX}{one.target}", headers, arriving(one.body))


def test_the_document_names_every_header_that_a_hook_reads(open_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those are fuzzed."""
    read: set[str] = set()
    original = Headers.__getitem__

    def recorded(headers: Headers, key: str) -> str:
        read.add(key.lower())
        return original(headers, key)

    monkeypatch.setattr(Headers, "__getitem__", recorded)
    known = {
        one.path: {name.lower() for where, name in one.parameters if where == "header"}
        for one in operations(document(open_api))
    }
    for route in HOOKS:
        for body, headers in SIGNED[route.path.rpartition("/")[2]](lambda event: event):
            read.clear()
            open_api.call("POST", f"{PREFIX}{route.path}", None, content=body, headers=headers)
            common = {name.lower() for name in COMMON_HEADERS} | {"content-length", "transfer-encoding", "host"}
            assert read - common <= known[route.path]
            assert known[route.path] <= read


Change = Callable[[Any], Any]
SIGNED: dict[str, Callable[[Change], list[tuple[bytes, dict[str, str]]]]] = {}
"""Hook → its events with valid signatures, each changed before it is signed."""


def signs(name: str) -> Callable[[Any], Any]:
    return lambda function: SIGNED.setdefault(name, function)


@signs("ses")
def ses_requests(change: Change) -> list[tuple[bytes, dict[str, str]]]:
    part = {"timestamp": NOW.isoformat()}
    events = [
        {"eventType": "Delivery", "mail": MAIL, "delivery": {**part, "recipients": ["a@b.example"], "smtpResponse": "250"}},
        {"eventType": "Bounce", "mail": MAIL, "bounce": {**part, "bounceType": "Permanent", "bouncedRecipients": [{"emailAddress": "a@b.example"}]}},
        {"eventType": "Complaint", "mail": MAIL, "complaint": {**part, "complainedRecipients": [{"emailAddress": "a@b.example"}]}},
        {"eventType": "Reject", "mail": MAIL, "reject": {"reason": "x"}},
    ]  # fmt: skip
    return [(SNS.notification(as_text(change(event))), {}) for event in events]


@signs("sendgrid")
def sendgrid_requests(change: Change) -> list[tuple[bytes, dict[str, str]]]:
    stamp = str(int(NOW.timestamp()))
    found = []
    for kind in ("bounce", "dropped", "delivered", "unsubscribe"):
        event = {**sendgrid_event(kind, status="5.1.1", reason="x"), "timestamp": int(stamp)}
        headers, body = sendgrid_request(change(event), stamp=stamp)
        found.append((body, headers))
    return found


@signs("mailgun")
def mailgun_requests(change: Change) -> list[tuple[bytes, dict[str, str]]]:
    return [
        (mailgun_request(change({**mailgun_event(kind), "timestamp": NOW.timestamp()}), token="t" * 50, stamp=str(int(NOW.timestamp()))), {})
        for kind in ("failed", "complained", "delivered")
    ]  # fmt: skip


@signs("twilio")
def twilio_requests(change: Change) -> list[tuple[bytes, dict[str, str]]]:
    changed = change({**twilio_form("undelivered"), "ErrorCode": "30005"})
    form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in changed.items()}
    form = {
        name.encode("utf-8", "replace").decode(): value.encode("utf-8", "replace").decode()
        for name, value in form.items()
    }
    signature = twilio_signature("https://mail.shop.example/backline/hooks/twilio", form)
    return [(urlencode(form).encode(), {twilio.SIGNATURE_HEADER: signature})]


@signs("stripe")
def stripe_requests(change: Change) -> list[tuple[bytes, dict[str, str]]]:
    body = as_body(change(intent_event("evt_1", "payment_intent.succeeded", NOW, reference="pi_1", amount=1)))
    return [(body, stripe_headers(body, datetime.now(UTC)))]


@signs("razorpay")
def razorpay_requests(change: Change) -> list[tuple[bytes, dict[str, str]]]:
    body = as_body(change(razorpay_event("payment.captured", NOW, payment="pay_1", amount=1)))
    return [(body, razorpay_headers(body, "evt_1"))]


def as_text(event: Any) -> str:
    return event if isinstance(event, str) else json.dumps(event)


def changed_somewhere(event: Any, random: Random) -> Any:
    """A copy with one value, at any depth, replaced by an odd one, removed, or under another name."""
    if not isinstance(event, dict | list) or not event or random.random() < 0.15:
        return json.loads(random.choice(READABLE))
    copy: Any = dict(event) if isinstance(event, dict) else list(event)
    key = random.choice(list(copy)) if isinstance(copy, dict) else random.randrange(len(copy))
    if random.random() < 0.15:
        del copy[key]
    else:
        copy[key] = changed_somewhere(copy[key], random)
    return copy


def readable(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


READABLE = [text for text in ODD_JSON if readable(text)]


@pytest.mark.parametrize("seconds", [2, *SECONDS[1:]])
def test_no_odd_event_that_its_provider_has_signed_is_a_server_error(open_api: Api, seconds: float) -> None:
    assert set(SIGNED) == {route.path.rpartition("/")[2] for route in HOOKS}
    random, seed = seeded()

    def keep_top(event: Any) -> Any:
        changed = changed_somewhere(event, random)
        return changed if isinstance(changed, dict) else event

    async def send(name: str, change: Change) -> None:
        for body, headers in SIGNED[name](change):
            given = {header: value.encode() for header, value in headers.items()}
            answer = await request(open_api.client.app, "POST", f"{PREFIX}/hooks/{name}", given, arriving(body))
            assert answer.status < 500, (seed, name, body, answer.body)
            assert answer.status == 204 or change is not same, (name, answer.body)

    def same(event: Any) -> Any:
        return event

    async def send_all() -> None:
        until = time.monotonic() + seconds
        for name in SIGNED:
            await send(name, same)
        while time.monotonic() < until:
            await send(random.choice(list(SIGNED)), keep_top)

    asyncio.run(send_all())
