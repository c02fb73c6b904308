"""Text messages through the outbox: codes that are never late nor left behind, and groups of several channels."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet

from backline.channels.base import Channel
from backline.channels.email.channel import EmailChannel
from backline.channels.email.settings import EmailSettings
from backline.channels.http import HttpGateway
from backline.channels.sms.channel import SmsChannel
from backline.channels.sms.settings import SmsSettings
from backline.encryption import Encryptor
from backline.messages import registry, render_email, render_sms
from backline.outbox.delivery import Delivery, SecretResolver
from backline.outbox.dispatcher import Dispatcher
from backline.outbox.inline_delivery import InlineSender, Route, SendResult
from backline.outbox.submission import NewMessage
from backline.settings import DEFAULT_RETRY_POLICIES, LaneSettings, OutboxSettings
from smtp_pipeline import SmtpServer
from stack.reference_app import apply_schema
from tests.integration.channels.sandbox import CHANNEL_CASES, Sandbox
from tests.integration.identity import add_token
from tests.integration.outbox.support import Outbox

CODE = "402913"
ANN = "+4915112345678"
ENCRYPTOR = Encryptor([Fernet.generate_key().decode()])
SHIPPED = registry.get("order_shipped").sample()
BOTH = json.dumps({"email": "ann@example.com", "sms": ANN})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox.start(tmp_path_factory.mktemp("mail") / "box")
    yield sandbox
    sandbox.stop()


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    for name in ("email", "sms"):
        CHANNEL_CASES[name].reset(running)
    return running


@pytest.fixture
def lookup(outbox: Outbox) -> Iterator[SecretResolver]:
    made = SecretResolver(lambda: outbox.dsn, lambda: ENCRYPTOR)
    yield made
    asyncio.run(made.close())


def channels(sandbox: Sandbox) -> dict[str, Channel[Any]]:
    return {
        "email": EmailChannel(EmailSettings(), SmtpServer("127.0.0.1", sandbox.smtp_port, "none"), render_email),
        "sms": SmsChannel(
            SmsSettings(), HttpGateway("sms_gateway", sandbox.url("/sms"), "ACsandbox", "sandbox"), render_sms
        ),
    }


def delivery_over(channel: Channel[Any], lookup: SecretResolver) -> Delivery[Any]:
    return Delivery(channel, DEFAULT_RETRY_POLICIES, random.Random(1).random, lookup)


def drain(outbox: Outbox, sandbox: Sandbox, lookup: SecretResolver, lane: str = "sms.urgent") -> None:
    channel = channels(sandbox)["sms"]
    dispatcher = Dispatcher(
        lane,
        LaneSettings(channel="sms"),
        OutboxSettings(),
        outbox.dsn,
        channel,
        delivery_over(channel, lookup),
        once=True,
    )
    asyncio.run(dispatcher.run())


def enqueue_code(outbox: Outbox, given: object) -> int:
    return outbox.enqueue(ANN, type="mfa_code", payload=json.dumps({"code": given}))


def received_sms(sandbox: Sandbox) -> list[dict[str, Any]]:
    return list(sandbox.get("/sms/api/messages")["messages"])


@pytest.mark.parametrize("by", ["reference", "encrypted"])
def test_a_code_arrives_and_is_left_nowhere_else(
    outbox: Outbox, sandbox: Sandbox, lookup: SecretResolver, by: str
) -> None:
    apply_schema(outbox.dsn)
    encrypted = ENCRYPTOR.encrypt(CODE)
    given = (
        {"$ref": "mfa_code", "id": add_token(outbox.connection, encrypted, "otp")} if by == "reference" else encrypted
    )
    made = enqueue_code(outbox, given)
    drain(outbox, sandbox, lookup)
    [found] = received_sms(sandbox)
    assert (found["to"], found["text"].split()[0]) == (ANN, CODE)
    row = outbox.message(made)
    assert (row["state"], row["payload"], row["lane"]) == ("sent", {}, "sms.urgent")
    assert row["provider_id"] == found["sid"]
    [attempt] = outbox.attempts(made)
    assert (attempt["code"], attempt["response"]) == ("201", None)
    assert CODE not in json.dumps([row, attempt], default=str)


def test_a_code_that_the_gateway_quotes_is_hidden(outbox: Outbox, sandbox: Sandbox, lookup: SecretResolver) -> None:
    refusal = {"code": 30007, "message": f"Filtered: {CODE} is your Backline code"}
    sandbox.web.put("/sms/faults", json=[{"status": 400, "body": refusal}]).raise_for_status()
    made = enqueue_code(outbox, ENCRYPTOR.encrypt(CODE))
    drain(outbox, sandbox, lookup)
    row = outbox.message(made)
    assert (row["state"], row["error_class"]) == ("dead", "rejected")
    assert "Filtered: [secret] is your Backline code" in row["error"]


@pytest.mark.parametrize(
    ("age", "state"), [(timedelta(minutes=4, seconds=50), "sent"), (timedelta(minutes=5), "expired")]
)
def test_a_code_is_never_sent_late(
    outbox: Outbox, sandbox: Sandbox, lookup: SecretResolver, age: timedelta, state: str
) -> None:
    made = enqueue_code(outbox, ENCRYPTOR.encrypt(CODE))
    outbox.sql("UPDATE backline.message SET created_at = created_at - %s WHERE id = %s", age, made)
    drain(outbox, sandbox, lookup)
    assert outbox.message(made)["state"] == state
    assert len(received_sms(sandbox)) == (1 if state == "sent" else 0)


def test_a_code_is_not_retried_after_its_expiry(outbox: Outbox, sandbox: Sandbox, lookup: SecretResolver) -> None:
    CHANNEL_CASES["sms"].set_faults(sandbox, "down")
    made = enqueue_code(outbox, ENCRYPTOR.encrypt(CODE))
    drain(outbox, sandbox, lookup)
    assert outbox.message(made)["state"] == "scheduled"
    outbox.sql("UPDATE backline.message SET created_at = created_at - interval '5 minutes' WHERE id = %s", made)
    outbox.make_due(made)
    drain(outbox, sandbox, lookup)
    row = outbox.message(made)
    assert (row["state"], row["payload"]) == ("expired", {})
    assert received_sms(sandbox) == []


# --- groups -----------------------------------------------------------------------------------------


def send(outbox: Outbox, sandbox: Sandbox, lookup: SecretResolver, recipient: str = BOTH) -> dict[str, SendResult]:
    """One try of a run."""
    lanes = {name: LaneSettings(channel=name) for name in ("email", "sms")}
    ways = {name: Route(one, delivery_over(one, lookup), lanes[name]) for name, one in channels(sandbox).items()}
    request = NewMessage("order_shipped", recipient, SHIPPED, "dag/run")
    results = asyncio.run(InlineSender(outbox.dsn, ways).send(request, "dag/run"))
    return {result.channel: result for result in results}


def test_a_run_sends_each_channels_message_of_one_group(
    outbox: Outbox, sandbox: Sandbox, lookup: SecretResolver
) -> None:
    results = send(outbox, sandbox, lookup)
    assert {name: result.state for name, result in results.items()} == {"email": "sent", "sms": "sent"}
    [found] = received_sms(sandbox)
    assert (found["to"], SHIPPED["tracking_url"] in found["text"]) == (ANN, True)
    [mail] = sandbox.get("/api/messages")["messages"]
    assert mail["to"] == ["ann@example.com"]
    rows = outbox.sql("SELECT lane, group_id FROM backline.message ORDER BY lane")
    assert [row["lane"] for row in rows] == ["email.normal", "sms.normal"]
    assert len({row["group_id"] for row in rows}) == 1
    again = send(outbox, sandbox, lookup)
    assert {name: result.message_id for name, result in again.items()} == {
        name: result.message_id for name, result in results.items()
    }
    assert len(received_sms(sandbox)) == 1


def test_a_channel_that_was_sent_is_not_sent_again_for_another(
    outbox: Outbox, sandbox: Sandbox, lookup: SecretResolver
) -> None:
    CHANNEL_CASES["sms"].set_faults(sandbox, "down")
    first = send(outbox, sandbox, lookup)
    assert {name: result.state for name, result in first.items()} == {"email": "sent", "sms": "scheduled"}
    assert first["sms"].due_in > 0
    outbox.make_due(first["sms"].message_id)
    second = send(outbox, sandbox, lookup)
    assert {name: (result.state, result.attempt) for name, result in second.items()} == {
        "email": ("sent", 1),
        "sms": ("sent", 2),
    }
    assert CHANNEL_CASES["email"].received_count(sandbox) == CHANNEL_CASES["sms"].received_count(sandbox) == 1


def test_one_channel_alone_is_a_group_of_one(outbox: Outbox, sandbox: Sandbox, lookup: SecretResolver) -> None:
    assert set(send(outbox, sandbox, lookup, json.dumps({"sms": ANN}))) == {"sms"}
    assert CHANNEL_CASES["email"].received_count(sandbox) == 0
