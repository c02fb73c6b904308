"""The push channel's own behaviour: access tokens, users' devices, unregistered devices."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import psycopg
import pytest
from aiohttp import web
from psycopg.rows import dict_row

from backline.channels.base import Message, PushContent, Receipt
from backline.channels.http import HttpGateway
from backline.channels.push.channel import SCOPE, DeviceStore, PushChannel, ServiceAccount
from backline.errors import (
    AuthenticationFailed,
    DatabaseFailure,
    InvalidInput,
    Misconfigured,
    NetworkFailure,
    RateLimited,
    Rejected,
)
from tests.integration.channels.sandbox import (
    CREATED,
    InMemoryDeviceStore,
    Sandbox,
    push_channel,
    service_account,
    service_key,
)

pytestmark = pytest.mark.anyio
GONE = {
    "status": 404,
    "body": {"error": {"code": 404, "status": "NOT_FOUND", "details": [{"errorCode": "UNREGISTERED"}]}},
}


def message(recipient: str = "user:17") -> Message:
    return Message(7, "push", recipient, {}, CREATED)


async def send(channel: PushChannel, *recipients: str) -> list[Receipt]:
    session = channel.session()
    try:
        return [await session.send(channel.prepare(message(recipient))) for recipient in recipients]
    finally:
        await session.close()


@pytest.fixture(scope="module")
def sandbox_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox.start(tmp_path_factory.mktemp("mail") / "box")
    yield sandbox
    sandbox.stop()


@pytest.fixture
def sandbox(sandbox_process: Sandbox) -> Sandbox:
    sandbox_process.web.delete("/push/faults").raise_for_status()
    sandbox_process.web.delete("/push/api/messages").raise_for_status()
    return sandbox_process


def arrived(sandbox: Sandbox) -> list[dict[str, Any]]:
    return list(sandbox.get("/push/api/messages")["messages"])[::-1]


def set_faults(sandbox: Sandbox, *rules: dict[str, Any]) -> None:
    response = sandbox.web.put("/push/faults", json=list(rules))
    assert response.status_code == 200, response.text


# --- what is said ---------------------------------------------------------------------------------


async def test_time_to_live_and_collapse_key_are_set_for_each_platform(sandbox: Sandbox) -> None:
    content = PushContent("Title", "Text", {"order": "1042"}, ttl_seconds=3600, collapse_key="order-1042")
    before = int(time.time())
    await send(push_channel(sandbox.url("/push"), content), "device-of-ann")
    [found] = arrived(sandbox)
    assert (found["to"], found["title"], found["text"]) == ("device-of-ann", "Title", "Text")
    expires = int(found["message"]["apns"]["headers"].pop("apns-expiration"))
    assert before + 3600 <= expires <= time.time() + 3600
    assert found["message"] == {
        "data": {"order": "1042"},
        "android": {"ttl": "3600s", "collapse_key": "order-1042"},
        "apns": {"headers": {"apns-collapse-id": "order-1042"}},
        "webpush": {"headers": {"TTL": "3600"}},
    }


async def test_a_ttl_of_zero_and_no_options(sandbox: Sandbox) -> None:
    await send(push_channel(sandbox.url("/push"), PushContent("T", "x", ttl_seconds=0)), "device-one")
    await send(push_channel(sandbox.url("/push"), PushContent("T", "x")), "device-two")
    first, second = (found["message"] for found in arrived(sandbox))
    assert (first["android"], first["apns"]["headers"]) == ({"ttl": "0s"}, {"apns-expiration": "0"})
    assert second == {}


def test_more_than_four_kilobytes_are_refused_here(sandbox: Sandbox) -> None:
    channel = push_channel(sandbox.url("/push"), PushContent("T", "ä" * 1500, {"x": "ä" * 600}))
    with pytest.raises(InvalidInput, match="the limit is 4096") as caught:
        channel.prepare(message())
    assert caught.value.field == "data"


# --- access ---------------------------------------------------------------------------------------


@asynccontextmanager
async def provider(*grants: tuple[int, object]) -> AsyncIterator[tuple[str, list[dict[str, str]], list[str]]]:
    """A provider with scripted responses to token requests, the last one repeated; its URL, the requests, the bearers."""
    asked: list[dict[str, str]] = []
    bearers: list[str] = []
    answers = list(grants)

    async def grant(request: web.Request) -> web.Response:
        asked.append({key: str(value) for key, value in (await request.post()).items()})
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        return web.json_response(body, status=status)

    async def take(request: web.Request) -> web.Response:
        bearers.append(request.headers["Authorization"])
        return web.json_response({"name": f"projects/shop/messages/{len(bearers)}"})

    app = web.Application()
    app.add_routes([web.post("/token", grant), web.post("/v1/projects/shop/messages:send", take)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked, bearers
    finally:
        await runner.cleanup()


def token(name: str, lives: float = 3600) -> tuple[int, object]:
    return 200, {"access_token": name, "expires_in": lives, "token_type": "Bearer"}


async def test_the_assertion_is_signed_by_the_account_with_its_claims() -> None:
    async with provider(token("t1")) as (url, asked, _):
        await send(push_channel(url), "device-of-ann")
    [form] = asked
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    claims = jwt.decode(
        form["assertion"], service_key().public_key(), algorithms=["RS256"], audience=f"{url}/token",
        issuer="backline@shop.example", options={"require": ["exp", "iat"]},
    )  # fmt: skip
    assert claims["scope"] == SCOPE
    assert claims["exp"] - claims["iat"] == 3600
    assert jwt.get_unverified_header(form["assertion"])["kid"] == "k1"


async def test_one_token_serves_all_sessions_until_it_expires() -> None:
    async with provider(token("t1")) as (url, asked, bearers):
        channel = push_channel(url)
        await asyncio.gather(*[send(channel, "device-one", "device-two") for _ in range(4)])
    assert len(asked) == 1
    assert bearers == ["Bearer t1"] * 8


async def test_a_token_near_its_expiry_is_replaced() -> None:
    async with provider(token("t1", 30), token("t2")) as (url, asked, bearers):
        await send(push_channel(url), "device-one", "device-two", "device-one")
    assert len(asked) == 2
    assert bearers == ["Bearer t1", "Bearer t2", "Bearer t2"]


async def test_a_revoked_token_is_replaced_at_once(sandbox: Sandbox) -> None:
    channel = push_channel(sandbox.url("/push"))
    await send(channel, "device-one")
    sandbox.web.delete("/push/tokens").raise_for_status()
    await send(channel, "device-two")
    assert [found["to"] for found in arrived(sandbox)] == ["device-one", "device-two"]


@pytest.mark.parametrize(
    ("answer", "kind", "word"),
    [
        (
            (400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}),
            AuthenticationFailed,
            "Invalid JWT",
        ),
        ((401, {}), AuthenticationFailed, "answered 401"),
        ((429, {}), RateLimited, "answered 429"),
        ((503, {}), NetworkFailure, "answered 503"),
    ],
)
async def test_an_account_that_gets_no_token_is_reported(
    answer: tuple[int, object], kind: type[Exception], word: str
) -> None:
    async with provider(answer) as (url, _, bearers):
        with pytest.raises(kind, match=word) as caught:
            await send(push_channel(url), "device-of-ann")
    assert "backline@shop.example" in str(caught.value)
    assert bearers == []


async def test_a_partial_token_is_not_quoted() -> None:
    async with provider((200, {"acces_token": "s3cret"})) as (url, _, _bearers):
        with pytest.raises(Exception, match="without an access token") as caught:
            await send(push_channel(url), "device-of-ann")
    assert "s3cret" not in str(caught.value) + getattr(caught.value, "response", "")


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({}, "extra.service_account is missing"),
        ({"service_account": "x"}, "is not JSON"),
        ({"service_account": []}, "is missing"),
        ({"service_account": {"project_id": "shop"}}, "client_email is missing"),
        (
            {"service_account": {**service_account("https://x.example"), "private_key": "s3cret"}},
            "not a PEM private key",
        ),
        ({"service_account": service_account("ftp://x.example")}, "token_uri must be"),
    ],
)
def test_a_connection_without_a_valid_account_is_refused_with_the_reason(extra: dict[str, object], word: str) -> None:
    with pytest.raises(Misconfigured, match=word) as caught:
        ServiceAccount(HttpGateway("push_gateway", "https://fcm.example", extra=extra))
    assert "s3cret" not in str(caught.value)


def test_the_key_file_may_be_text_and_is_never_shown() -> None:
    text = json.dumps(service_account(""))
    account = ServiceAccount(HttpGateway("push_gateway", "https://fcm.example", extra={"service_account": text}))
    assert account.token_url == "https://oauth2.googleapis.com/token"
    assert "PRIVATE" not in repr(account)


# --- devices --------------------------------------------------------------------------------------


async def test_a_user_is_notified_on_all_devices(sandbox: Sandbox) -> None:
    known = InMemoryDeviceStore({"17": ["phone-of-ann", "tablet-of-ann"]})
    [receipt] = await send(push_channel(sandbox.url("/push"), devices=known), "user:17")
    assert [found["to"] for found in arrived(sandbox)] == ["phone-of-ann", "tablet-of-ann"]
    assert receipt.response.count("projects/shop/messages/") == 2
    assert receipt.refused_recipients == ()


async def test_an_unregistered_device_is_removed_and_the_others_are_notified(sandbox: Sandbox) -> None:
    set_faults(sandbox, {**GONE, "recipient": "old-*"})
    known = InMemoryDeviceStore({"17": ["old-phone-of-ann-with-a-long-token", "phone-of-ann"]})
    [receipt] = await send(push_channel(sandbox.url("/push"), devices=known), "user:17")
    assert known.removed == ["old-phone-of-ann-with-a-long-token"]
    assert [found["to"] for found in arrived(sandbox)] == ["phone-of-ann"]
    [(device, why)] = receipt.refused_recipients
    assert device == "old-phone-of…"
    assert "UNREGISTERED" in why
    assert "long-token" not in why


async def test_a_user_without_a_working_device_is_a_permanent_failure(sandbox: Sandbox) -> None:
    with pytest.raises(Rejected, match="user:17 has no device"):
        await send(push_channel(sandbox.url("/push")), "user:17")
    set_faults(sandbox, GONE)
    known = InMemoryDeviceStore({"17": ["old-phone", "old-tablet"]})
    with pytest.raises(Rejected, match="no longer exists and was removed"):
        await send(push_channel(sandbox.url("/push"), devices=known), "user:17")
    assert known.removed == ["old-phone", "old-tablet"]


async def test_a_temporary_failure_of_the_last_device_is_retryable(sandbox: Sandbox) -> None:
    set_faults(sandbox, {**GONE, "recipient": "old-*"}, {"status": 503, "retry_after": 9})
    known = InMemoryDeviceStore({"17": ["old-phone", "phone-of-ann"]})
    with pytest.raises(RateLimited) as caught:
        await send(push_channel(sandbox.url("/push"), devices=known), "user:17")
    assert caught.value.retry_after == 9
    assert known.removed == ["old-phone"]


async def test_a_single_unregistered_device_is_removed_too(sandbox: Sandbox) -> None:
    set_faults(sandbox, GONE)
    known = InMemoryDeviceStore()
    with pytest.raises(Rejected) as caught:
        await send(push_channel(sandbox.url("/push"), devices=known), "device-of-ann")
    assert caught.value.code == "404"
    assert known.removed == ["device-of-ann"]


async def test_another_404_removes_no_device(sandbox: Sandbox) -> None:
    set_faults(sandbox, {"status": 404, "body": {"error": {"code": 404, "status": "NOT_FOUND"}}})
    known = InMemoryDeviceStore()
    with pytest.raises(Rejected):
        await send(push_channel(sandbox.url("/push"), devices=known), "device-of-ann")
    assert known.removed == []


async def test_an_unavailable_device_table_does_not_change_the_outcome(sandbox: Sandbox) -> None:
    set_faults(sandbox, GONE)
    known = InMemoryDeviceStore(error=DatabaseFailure("database: away"))
    with pytest.raises(Rejected, match="no longer exists"):
        await send(push_channel(sandbox.url("/push"), devices=known), "device-of-ann")


async def test_devices_are_listed_and_removed_in_the_apps_own_tables(sandbox: Sandbox, seeded_database: str) -> None:
    with psycopg.connect(seeded_database, autocommit=True, row_factory=dict_row) as connection:
        row = connection.execute(
            "SELECT t.user_id, count(*) AS devices, min(t.token) AS first FROM app.push_tokens AS t"
            " JOIN app.users AS u ON u.id = t.user_id WHERE t.removed_at IS NULL AND u.state = 'active'"
            " GROUP BY t.user_id ORDER BY count(*) DESC, t.user_id LIMIT 1"
        ).fetchone()
        assert row is not None
        connection.execute(
            "INSERT INTO app.push_tokens (user_id, platform, token) VALUES (%s, 'ios', 'old-phone')", [row["user_id"]]
        )
        set_faults(sandbox, {**GONE, "recipient": "old-*"})
        devices = DeviceStore(lambda: seeded_database)
        channel = push_channel(sandbox.url("/push"), devices=devices)
        [receipt] = await send(channel, f"user:{row['user_id']}")
        assert len(arrived(sandbox)) == row["devices"]
        assert [device for device, _ in receipt.refused_recipients] == ["old-phone"]
        removed = connection.execute("SELECT * FROM app.push_tokens WHERE token = 'old-phone'").fetchone()
        assert removed is not None
        assert "UNREGISTERED" in removed["removed_reason"]
        assert "old-phone" not in await devices.list_tokens(str(row["user_id"]))
        with pytest.raises(InvalidInput, match="not a user id") as caught:
            await send(channel, "user:seventeen")
        assert caught.value.field == "to"
        await devices.close()
