"""The webhook channel on a real database, with HTTP on loopback and signatures verified as receivers do."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography.fernet import Fernet
from standardwebhooks import Webhook

from backline.airflow.factories import _retry_policies
from backline.channels.base import Message
from backline.channels.webhook import endpoints as module
from backline.channels.webhook.channel import PreparedWebhook, WebhookChannel, WebhookSession
from backline.channels.webhook.endpoints import EndpointStore
from backline.channels.webhook.settings import WebhookSettings
from backline.channels.webhook.ssrf_guard import AddressGuard
from backline.encryption import Encryptor
from backline.errors import (
    BacklineError,
    InvalidInput,
    Misconfigured,
    NetworkFailure,
    RateLimited,
    Rejected,
    TimeoutFailure,
    UnknownFailure,
)
from backline.messages import render_webhook
from backline.outbox.delivery import Delivery
from backline.outbox.dispatcher import Dispatcher
from backline.outbox.inline_delivery import InlineSender, Route, SendResult
from backline.outbox.submission import NewMessage
from backline.settings import DEFAULT_RETRY_POLICIES, LaneSettings, OutboxSettings, config_file, load
from backline.webhooks import endpoints
from tests.integration.webhooks.conftest import ACTOR, ENCRYPTOR, PERMISSIVE_SETTINGS, WebhookOutbox
from tests.integration.webhooks.receiver import Receiver, running_receiver

pytestmark = pytest.mark.anyio

LANE = LaneSettings(channel="webhook", batch_size=100, max_attempts=8)
DAY = 86_400.0


def endpoint_store(webhook_outbox: WebhookOutbox, **options: Any) -> EndpointStore:
    wanted = {"disable_after": 5 * DAY, "recipients": ["operator@example.com"], **options}
    return EndpointStore(webhook_outbox.outbox.dsn, lambda: ENCRYPTOR, **wanted)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints are loaded for each delivery."""
    monkeypatch.setattr(module, "CACHE_TTL_SECONDS", 0.0)


class StaticResolver(AbstractResolver):
    """A resolver that returns one address after the other for any name, then repeats the last one."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked = 0

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002 - its signature
    ) -> list[ResolveResult]:
        self.asked += 1
        address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
        ]

    async def close(self) -> None:
        pass


def message(row: dict[str, Any], attempt: int = 1) -> Message:
    return Message(row["id"], row["type"], row["recipient"], row["payload"], row["created_at"], attempt)


def channel(
    webhook_outbox: WebhookOutbox, settings: WebhookSettings = PERMISSIVE_SETTINGS, **options: Any
) -> WebhookChannel:
    return WebhookChannel(settings, lambda: endpoint_store(webhook_outbox, **options), render_webhook)


async def deliver(
    webhook_outbox: WebhookOutbox, event: int, session: WebhookSession | None = None, **options: Any
) -> list[Any]:
    """Send each message of an event once; receipts or errors."""
    over = channel(webhook_outbox, **options)
    used = session or over.session()
    ends: list[Any] = []
    for row in webhook_outbox.rows(event):
        try:
            ends.append(await used.send(over.prepare(message(row))))
        except BacklineError as exc:
            ends.append(exc)
    if session is None:
        await used.close()
    return ends


async def test_a_delivery_conforms_to_standard_webhooks(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    made = webhook_outbox.endpoint(receiver.url)
    event = webhook_outbox.event(occurred_at="2026-03-01T19:30:00+01:00")
    (receipt,) = await deliver(webhook_outbox, event)
    (got,) = receiver.requests
    assert got.headers["content-type"] == "application/json"
    assert (receipt.code, receipt.response, receipt.provider_id) == ("200", "thanks", got.headers["webhook-id"])
    assert made.secret is not None
    assert Webhook(made.secret).verify(got.body, got.headers) == {
        "type": "order.paid", "timestamp": "2026-03-01T18:30:00.000Z", "data": {"order": "1042"},
    }  # fmt: skip


async def test_id_and_body_are_the_same_in_every_attempt_and_for_every_endpoint(
    webhook_outbox: WebhookOutbox, receiver: Receiver
) -> None:
    webhook_outbox.endpoint(receiver.url)
    webhook_outbox.endpoint(receiver.url)
    event = webhook_outbox.event()
    receiver.respond_with(500, 500, 200)
    await deliver(webhook_outbox, event)
    await deliver(webhook_outbox, event)
    assert len(receiver.requests) == 4
    assert len(set(receiver.webhook_ids)) == 1
    assert len({one.body for one in receiver.requests}) == 1
    again = webhook_outbox.event()
    await deliver(webhook_outbox, again)
    assert len(set(receiver.webhook_ids)) == 2


async def test_after_a_rotation_both_secrets_sign_until_the_old_one_expires(
    webhook_outbox: WebhookOutbox, receiver: Receiver
) -> None:
    old = webhook_outbox.endpoint(receiver.url)
    new = endpoints.rotate_secret(webhook_outbox.connection, PERMISSIVE_SETTINGS, ENCRYPTOR, ACTOR, old.endpoint.id)
    await deliver(webhook_outbox, webhook_outbox.event())
    for secret in (old.secret, new.secret):
        assert secret is not None
        Webhook(secret).verify(receiver.requests[-1].body, receiver.requests[-1].headers)
    last = endpoints.rotate_secret(
        webhook_outbox.connection, PERMISSIVE_SETTINGS, ENCRYPTOR, ACTOR, old.endpoint.id, overlap_seconds=0
    )
    await deliver(webhook_outbox, webhook_outbox.event())
    signed = receiver.requests[-1].headers["webhook-signature"].split()
    assert len(signed) == 1
    assert last.secret is not None
    Webhook(last.secret).verify(receiver.requests[-1].body, receiver.requests[-1].headers)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (500, UnknownFailure, "answered 500"),
        (404, UnknownFailure, "answered 404"),
        (401, UnknownFailure, "answered 401"),
        ((302, {"Location": "http://127.0.0.1:1/elsewhere"}, ""), UnknownFailure, "a redirect to 127.0.0.1; redirects are not followed"),
        ((308, {"Location": "http://[::1"}, ""), UnknownFailure, "answered 308, a redirect; redirects are not followed"),
        ((429, {"Retry-After": "77"}, ""), RateLimited, "answered 429"),
        ((503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, ""), RateLimited, "answered 503"),
        ((400, {}, "no\0such field"), UnknownFailure, "answered 400: no\ufffdsuch field"),
    ],
)  # fmt: skip
async def test_responses(
    webhook_outbox: WebhookOutbox, receiver: Receiver, answer: Any, error: type[Exception], said: str
) -> None:
    webhook_outbox.endpoint(receiver.url)
    receiver.respond_with(answer)
    (exc,) = await deliver(webhook_outbox, webhook_outbox.event())
    assert type(exc) is error
    assert said in str(exc)
    assert len(receiver.requests) == 1
    if answer == (429, {"Retry-After": "77"}, ""):
        assert isinstance(exc, RateLimited)
        assert exc.retry_after == 77
    assert "in-the-url" not in str(exc)


async def test_a_long_response_is_cut(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    webhook_outbox.endpoint(receiver.url)
    receiver.respond_with((200, {}, "x" * 5_000_000))
    (receipt,) = await deliver(webhook_outbox, webhook_outbox.event())
    assert receipt.response == "x" * 4096


async def test_the_timeout_is_longer_in_the_second_attempt(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    webhook_outbox.endpoint(receiver.url)
    receiver.delay_seconds = 0.3
    event = webhook_outbox.event()
    hasty = channel(webhook_outbox, PERMISSIVE_SETTINGS.model_copy(update={"timeout_seconds": 0.2}))
    session = hasty.session()
    [row] = webhook_outbox.rows(event)
    with pytest.raises(TimeoutFailure, match=r"ep_\d+ did not answer within 0\.2 s"):
        await session.send(hasty.prepare(message(row)))
    assert (await session.send(hasty.prepare(message(row, attempt=2)))).code == "200"
    await session.close()


async def test_an_unreachable_endpoint(webhook_outbox: WebhookOutbox, closed_port: int) -> None:
    webhook_outbox.endpoint(f"http://127.0.0.1:{closed_port}/hook?token=in-the-url")
    (exc,) = await deliver(webhook_outbox, webhook_outbox.event())
    assert type(exc) is NetworkFailure
    assert "in-the-url" not in str(exc)


async def test_a_connection_is_reused_and_replaced_after_it_was_closed(
    webhook_outbox: WebhookOutbox, receiver: Receiver
) -> None:
    webhook_outbox.endpoint(receiver.url)
    session = channel(webhook_outbox).session()
    for _ in range(3):
        await deliver(webhook_outbox, webhook_outbox.event(), session)
    assert len(receiver.connections) == 1
    receiver.drop_count = 1
    (receipt,) = await deliver(webhook_outbox, webhook_outbox.event(), session)
    assert receipt.code == "200"
    assert len(receiver.requests) == 5
    assert receiver.webhook_ids[-1] == receiver.webhook_ids[-2]
    await session.close()


# --- addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "169.254.169.254", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "127.1", "2130706433", "localhost"]
)  # fmt: skip
async def test_a_url_at_a_private_address_is_refused(
    webhook_outbox: WebhookOutbox, receiver: Receiver, host: str
) -> None:
    made = webhook_outbox.endpoint(receiver.url)
    # As if an older release had accepted it, or it was written with SQL.
    webhook_outbox.outbox.sql(
        "UPDATE backline.webhook_endpoint SET url = %s WHERE id = %s",
        f"http://{host}:{receiver.port}/hook", made.endpoint.id,
    )  # fmt: skip
    strict = WebhookSettings(require_https=False)
    (exc,) = await deliver(webhook_outbox, webhook_outbox.event(), settings=strict)
    assert isinstance(exc, InvalidInput), exc
    assert exc.field == "url"
    refusals = ("is not a public address; if it is yours, add it to webhooks.allowed_addresses", "is not usable")
    assert any(refusal in str(exc) for refusal in refusals)
    assert receiver.requests == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "::1", "0.0.0.0", "::ffff:127.0.0.1", "10.0.0.1", "64:ff9b::7f00:1"]
)
async def test_a_name_that_resolves_to_a_private_address_is_refused(
    webhook_outbox: WebhookOutbox, receiver: Receiver, address: str
) -> None:
    webhook_outbox.endpoint(f"http://shop.example:{receiver.port}/hook")
    names = StaticResolver(address)
    session = WebhookSession(endpoint_store(webhook_outbox), AddressGuard(()), lambda: names)
    (exc,) = await deliver(webhook_outbox, webhook_outbox.event(), session)
    await session.close()
    assert isinstance(exc, InvalidInput)
    assert f"shop.example resolves to {address}, which is not a public address" in str(exc)
    assert (names.asked, receiver.requests) == (1, [])


async def test_a_name_that_changes_to_a_private_address_is_refused(
    webhook_outbox: WebhookOutbox, receiver: Receiver
) -> None:
    """DNS rebinding: the address is checked whenever a connection is made."""
    webhook_outbox.endpoint(f"http://shop.example:{receiver.port}/hook")
    names = StaticResolver("127.0.0.1", "127.0.0.2")
    guard = AddressGuard(["127.0.0.1"])
    first, second = (WebhookSession(endpoint_store(webhook_outbox), guard, lambda: names) for _ in range(2))
    (receipt,) = await deliver(webhook_outbox, webhook_outbox.event(), first)
    assert receipt.code == "200"
    (exc,) = await deliver(webhook_outbox, webhook_outbox.event(), second)
    for session in (first, second):
        await session.close()
    assert isinstance(exc, InvalidInput)
    assert "shop.example resolves to 127.0.0.2" in str(exc)
    assert len(receiver.requests) == 1


# --- what becomes of an endpoint ----------------------------------------------------------------------


def state(webhook_outbox: WebhookOutbox, made: endpoints.EndpointWithSecret) -> endpoints.Endpoint:
    return endpoints.get_endpoint(webhook_outbox.connection, made.endpoint.id)


def notifications(webhook_outbox: WebhookOutbox) -> list[dict[str, Any]]:
    return webhook_outbox.outbox.sql(
        "SELECT recipient, payload FROM backline.message WHERE type = 'urgent_email' ORDER BY id"
    )


async def test_410_disables_the_endpoint(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    made, other = webhook_outbox.endpoint(receiver.url), webhook_outbox.endpoint("http://127.0.0.1:1/")
    waiting = webhook_outbox.event()
    receiver.respond_with(410)
    exc, _ = await deliver(webhook_outbox, webhook_outbox.event())
    assert isinstance(exc, Rejected)
    found = state(webhook_outbox, made)
    assert (found.state, found.disabled_reason) == ("disabled", "it answered 410 Gone, which asks for no more events")
    assert state(webhook_outbox, other).state == "active"
    first, second = webhook_outbox.rows(waiting)
    assert (first["state"], second["state"]) == ("suppressed", "pending")
    assert first["error"].startswith(f"endpoint {made.endpoint.id} was disabled: it answered 410 Gone")
    (notice,) = notifications(webhook_outbox)
    assert notice["recipient"] == "operator@example.com"
    assert notice["payload"]["context"]["title"] == f"Webhook endpoint {made.endpoint.id} was disabled"
    assert "in-the-url" not in json.dumps(notice["payload"])
    (row,) = webhook_outbox.rows(webhook_outbox.event())
    assert row["recipient"] == other.endpoint.id


@pytest.mark.usefixtures("fresh")
async def test_five_days_of_failure_disable_and_notify_once(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    made = webhook_outbox.endpoint(receiver.url)
    receiver.respond_with(500)
    await deliver(webhook_outbox, webhook_outbox.event())
    failing = state(webhook_outbox, made)
    assert failing.failing_since is not None
    assert "answered 500" in (failing.last_error or "")

    def age(days: float) -> None:
        webhook_outbox.outbox.sql(
            "UPDATE backline.webhook_endpoint SET failing_since = clock_timestamp() - %s * interval '1 day'", days
        )

    age(4.99)
    await deliver(webhook_outbox, webhook_outbox.event())
    assert state(webhook_outbox, made).state == "active"
    age(5.01)
    event = webhook_outbox.event()
    await asyncio.gather(*(deliver(webhook_outbox, event) for _ in range(8)))
    found = state(webhook_outbox, made)
    assert found.state == "disabled"
    assert "it has accepted nothing for 5 days; the last failure: " in (found.disabled_reason or "")
    assert len(notifications(webhook_outbox)) == 1


@pytest.mark.usefixtures("fresh")
async def test_one_success_resets_the_failing_time(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    made = webhook_outbox.endpoint(receiver.url)
    receiver.respond_with(500, 200, 500)
    await deliver(webhook_outbox, webhook_outbox.event())
    webhook_outbox.outbox.sql("UPDATE backline.webhook_endpoint SET failing_since = failing_since - interval '6 days'")
    await deliver(webhook_outbox, webhook_outbox.event())
    assert state(webhook_outbox, made).failing_since is None
    await deliver(webhook_outbox, webhook_outbox.event())
    assert state(webhook_outbox, made).state == "active"


async def test_an_endpoint_that_has_recovered_is_not_disabled(
    webhook_outbox: WebhookOutbox, receiver: Receiver
) -> None:
    """By the cached endpoint it has been failing for days; by the table it has not."""
    made = webhook_outbox.endpoint(receiver.url)
    webhook_outbox.outbox.sql(
        "UPDATE backline.webhook_endpoint SET failing_since = clock_timestamp() - interval '6 days'"
    )
    book = endpoint_store(webhook_outbox)
    known = await book.get(made.endpoint.id)
    assert known is not None
    assert (known.failing_seconds or 0) > 5 * DAY
    await book.record_success(known)
    await book.record_failure(known, UnknownFailure("answered 500"))
    await book.close()
    assert state(webhook_outbox, made).state == "active"
    assert notifications(webhook_outbox) == []


async def test_disabled_and_deleted_endpoints_get_nothing(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    made = webhook_outbox.endpoint(receiver.url)
    held = webhook_outbox.rows(webhook_outbox.event())[0]
    over = channel(webhook_outbox)
    webhook_outbox.outbox.sql(
        "UPDATE backline.webhook_endpoint SET state = 'disabled', disabled_reason = 'x', disabled_at = now()"
    )
    session = over.session()
    with pytest.raises(Rejected, match=f"endpoint {made.endpoint.id} is disabled: x"):
        await session.send(over.prepare(message(held)))
    await session.close()
    webhook_outbox.outbox.sql("DELETE FROM backline.webhook_endpoint")
    session = over.session()
    with pytest.raises(Rejected, match="was deleted"):
        await session.send(over.prepare(message(held)))
    await session.close()
    assert receiver.requests == []


async def test_a_secret_that_cannot_be_decrypted_is_not_the_endpoints_failure(
    webhook_outbox: WebhookOutbox, receiver: Receiver
) -> None:
    made = webhook_outbox.endpoint(receiver.url)
    other = Encryptor([Fernet.generate_key().decode()])
    book = EndpointStore(webhook_outbox.outbox.dsn, lambda: other, disable_after=DAY, recipients=())
    session = WebhookSession(book, AddressGuard(["127.0.0.1"]))
    (exc,) = await deliver(webhook_outbox, webhook_outbox.event(), session)
    await session.close()
    assert isinstance(exc, Misconfigured)
    assert made.endpoint.id in str(exc)
    assert state(webhook_outbox, made).failing_since is None


# --- the whole way ------------------------------------------------------------------------------------


async def dispatch(webhook_outbox: WebhookOutbox, over: WebhookChannel) -> dict[str, object]:
    """Drain the lane once, as a manual run does."""
    config = load(config_file())
    delivery = Delivery(over, _retry_policies("webhook", config), random.Random(1).random)
    served: Dispatcher[PreparedWebhook] = Dispatcher(
        "webhook.normal", LANE, OutboxSettings(), webhook_outbox.outbox.dsn, over, delivery, once=True
    )
    return (await served.run()).as_dict()


async def test_a_run_enqueues_an_event_and_delivers_to_one_endpoint_inline(
    webhook_outbox: WebhookOutbox, receiver: Receiver
) -> None:
    made = webhook_outbox.endpoint(receiver.url)

    async def send(to: str) -> SendResult:
        over = channel(webhook_outbox)
        delivery = Delivery(over, DEFAULT_RETRY_POLICIES, random.Random(1).random)
        sender = InlineSender(webhook_outbox.outbox.dsn, {"webhook": Route(over, delivery, LANE)})
        request = NewMessage("webhook", to, {"event_type": "order.paid", "data": {"order": "1042"}}, f"dag/{to}")
        [result] = await sender.send(request, f"dag/{to}")
        return result

    event = await send("*")
    assert (event.state, event.provider_id) == ("sent", "1 endpoint")
    (row,) = webhook_outbox.rows(event.message_id)
    assert (row["state"], receiver.requests) == ("pending", [])  # retries may take a day: the lane's, not the run's
    assert (await send(made.endpoint.id)).state == "sent"
    assert len(receiver.requests) == 1


async def test_the_dispatcher_retries_by_the_schedule(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    made = webhook_outbox.endpoint(receiver.url)
    receiver.respond_with(500)
    event = webhook_outbox.event()
    pauses = []
    for _ in range(8):
        await dispatch(webhook_outbox, channel(webhook_outbox))
        (row,) = webhook_outbox.outbox.sql(
            "SELECT id, state, extract(epoch FROM due_at - clock_timestamp())::float8 AS due_in FROM backline.message"
            " WHERE group_id = %s", event,
        )  # fmt: skip
        if row["state"] == "scheduled":
            pauses.append(row["due_in"])
            webhook_outbox.outbox.make_due(row["id"])
    assert row["state"] == "dead"
    assert len(pauses) == 7
    for pause, wanted in zip(pauses, (5, 300, 1800, 7200, 18_000, 36_000, 36_000), strict=True):
        assert 0.79 * wanted - 2 < pause < 1.21 * wanted
    assert len(set(receiver.webhook_ids)) == 1
    assert len(receiver.requests) == 8
    tries = webhook_outbox.outbox.sql(
        "SELECT code, outcome FROM backline.attempt WHERE message_id = %s ORDER BY number", row["id"]
    )
    assert [one["code"] for one in tries] == ["500"] * 8
    assert state(webhook_outbox, made).state == "active"


async def test_retry_after_is_respected(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    webhook_outbox.endpoint(receiver.url)
    receiver.respond_with((503, {"Retry-After": "900"}, ""))
    event = webhook_outbox.event()
    await dispatch(webhook_outbox, channel(webhook_outbox))
    (row,) = webhook_outbox.outbox.sql(
        "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 AS due_in FROM backline.message WHERE group_id = %s",
        event,
    )
    assert 890 < row["due_in"] <= 1080


async def test_many_events_reach_many_endpoints_once_each(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    made = [webhook_outbox.endpoint(receiver.url) for _ in range(3)]
    ids = webhook_outbox.outbox.value(
        "SELECT backline.enqueue_many('webhook', array_fill('*'::text, ARRAY[200]),"
        " (SELECT array_agg(jsonb_build_object('event_type', 'order.paid', 'data', jsonb_build_object('order', n)))"
        "  FROM generate_series(1, 200) AS n))"
    )
    assert len(set(ids)) == 200
    report = await dispatch(webhook_outbox, channel(webhook_outbox))
    assert report["sent"] == 600
    seen: dict[str, int] = {}
    for got in receiver.requests:
        seen[got.headers["webhook-id"]] = seen.get(got.headers["webhook-id"], 0) + 1
    assert sorted(seen.values()) == [3] * 200
    orders = [json.loads(got.body)["data"]["order"] for got in receiver.requests]
    assert sorted(orders) == sorted([*range(1, 201)] * 3)
    assert len(made) == 3
    assert webhook_outbox.outbox.state_counts() == {"sent": 800}


async def test_a_hanging_endpoint_does_not_delay_the_others(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    async with running_receiver() as hanging:
        hanging.delay_seconds = 0.4
        bad, good = webhook_outbox.endpoint(hanging.url), webhook_outbox.endpoint(receiver.url)
        webhook_outbox.outbox.sql("UPDATE backline.webhook_endpoint SET failing_since = now() - interval '1 minute' WHERE id = %s",
                         bad.endpoint.id)  # fmt: skip
        for number in range(20):
            webhook_outbox.event(to=bad.endpoint.id, event_id=f"bad_{number}")
        for number in range(20):
            webhook_outbox.event(to=good.endpoint.id, event_id=f"good_{number}")
        report = await dispatch(
            webhook_outbox,
            channel(webhook_outbox, PERMISSIVE_SETTINGS.model_copy(update={"concurrency": 2, "timeout_seconds": 0.2})),
        )
        assert (len(hanging.requests), len(receiver.requests)) == (1, 20)
        assert report["sent"] == 20
    rows = webhook_outbox.outbox.sql(
        "SELECT attempt, state, extract(epoch FROM due_at - now()) AS pause FROM backline.message WHERE recipient = %s"
        " ORDER BY attempt", bad.endpoint.id,
    )  # fmt: skip
    assert [row["attempt"] for row in rows] == [0] * 19 + [1]
    assert {row["state"] for row in rows} == {"scheduled"}
    assert all(10 < row["pause"] <= 45 for row in rows[:19])


async def test_leased_messages_are_held_back_when_an_endpoint_begins_to_fail(
    webhook_outbox: WebhookOutbox, receiver: Receiver
) -> None:
    async with running_receiver() as hanging:
        hanging.delay_seconds = 30.0
        bad, good = webhook_outbox.endpoint(hanging.url), webhook_outbox.endpoint(receiver.url)
        for number in range(20):
            webhook_outbox.event(to=bad.endpoint.id, event_id=f"bad_{number}")
        for number in range(20):
            webhook_outbox.event(to=good.endpoint.id, event_id=f"good_{number}")
        running = asyncio.create_task(
            dispatch(
                webhook_outbox,
                channel(
                    webhook_outbox, PERMISSIVE_SETTINGS.model_copy(update={"concurrency": 2, "timeout_seconds": 3.0})
                ),
            )
        )
        await hanging.request_arrived.wait()
        webhook_outbox.outbox.sql("UPDATE backline.webhook_endpoint SET failing_since = now() - interval '1 minute' WHERE id = %s",
                         bad.endpoint.id)  # fmt: skip
        report = await running
        assert len(hanging.requests) == 2
        assert report["sent"] == len(receiver.requests) == 20


async def test_one_failure_among_many_holds_nothing_back(webhook_outbox: WebhookOutbox, receiver: Receiver) -> None:
    made = webhook_outbox.endpoint(receiver.url)
    webhook_outbox.outbox.sql("UPDATE backline.webhook_endpoint SET failing_since = now() - interval '2 seconds'")
    for number in range(20):
        webhook_outbox.event(to=made.endpoint.id, event_id=f"evt_{number}")
    report = await dispatch(webhook_outbox, channel(webhook_outbox))
    assert report["sent"] == len(receiver.requests) == 20
