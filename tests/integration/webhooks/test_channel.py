"""The webhook channel: a real database, real HTTP on loopback, signatures checked as a receiver does."""

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

from backline.airflow.assembly import _policies
from backline.channels.base import Message
from backline.channels.webhook import directory as module
from backline.channels.webhook.channel import WebhookChannel
from backline.channels.webhook.directory import Directory
from backline.channels.webhook.guard import AddressGuard
from backline.channels.webhook.session import PreparedWebhook, WebhookSession
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
from backline.outbox.direct import DirectSender, Request, Result, Way
from backline.outbox.dispatcher import Dispatcher
from backline.sealing import Sealer
from backline.settings import DEFAULT_RETRIES, LaneSettings, OutboxSettings, config_file, load
from backline.webhooks import endpoints
from backline.webhooks.settings import WebhookSettings
from tests.integration.webhooks.conftest import LOOSE, SEALER, WHO, Hooks
from tests.integration.webhooks.receiver import Receiver, listening

pytestmark = pytest.mark.anyio

LANE = LaneSettings(channel="webhook", batch=100, max_attempts=8)
DAY = 86_400.0


def directory(hooks: Hooks, **options: Any) -> Directory:
    wanted = {"disable_after": 5 * DAY, "recipients": ["operator@example.com"], **options}
    return Directory(hooks.outbox.dsn, lambda: SEALER, **wanted)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints are looked up at each delivery."""
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)


class Names(AbstractResolver):
    """A resolver that gives one address after the other for any name, the last one for ever."""

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


def channel(hooks: Hooks, settings: WebhookSettings = LOOSE, **options: Any) -> WebhookChannel:
    return WebhookChannel(settings, lambda: directory(hooks, **options), render_webhook)


async def deliver(hooks: Hooks, event: int, session: WebhookSession | None = None, **options: Any) -> list[Any]:
    """Send each message of an event once; receipts or errors."""
    over = channel(hooks, **options)
    used = session or over.session()
    ends: list[Any] = []
    for row in hooks.rows(event):
        try:
            ends.append(await used.send(over.prepare(message(row))))
        except BacklineError as exc:
            ends.append(exc)
    if session is None:
        await used.close()
    return ends


async def test_a_delivery_is_what_standard_webhooks_asks_for(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.endpoint(receiver.url)
    event = hooks.event(occurred_at="2026-03-01T19:30:00+01:00")
    (receipt,) = await deliver(hooks, event)
    (got,) = receiver.got
    assert got.headers["content-type"] == "application/json"
    assert (receipt.code, receipt.response, receipt.provider_id) == ("200", "thanks", got.headers["webhook-id"])
    assert Webhook(made.secret).verify(got.body, got.headers) == {
        "type": "order.paid", "timestamp": "2026-03-01T18:30:00.000Z", "data": {"order": "1042"},
    }  # fmt: skip


async def test_id_and_body_are_the_same_at_every_try_and_for_every_endpoint(hooks: Hooks, receiver: Receiver) -> None:
    hooks.endpoint(receiver.url)
    hooks.endpoint(receiver.url)
    event = hooks.event()
    receiver.answer(500, 500, 200)
    await deliver(hooks, event)
    await deliver(hooks, event)
    assert len(receiver.got) == 4
    assert len(set(receiver.ids)) == 1
    assert len({one.body for one in receiver.got}) == 1
    again = hooks.event()
    await deliver(hooks, again)
    assert len(set(receiver.ids)) == 2


async def test_after_a_rotation_both_secrets_will_do_until_the_old_one_expires(
    hooks: Hooks, receiver: Receiver
) -> None:
    old = hooks.endpoint(receiver.url)
    new = endpoints.rotate(hooks.connection, LOOSE, SEALER, WHO, old.endpoint.id)
    await deliver(hooks, hooks.event())
    for secret in (old.secret, new.secret):
        Webhook(secret).verify(receiver.got[-1].body, receiver.got[-1].headers)
    last = endpoints.rotate(hooks.connection, LOOSE, SEALER, WHO, old.endpoint.id, overlap_seconds=0)
    await deliver(hooks, hooks.event())
    signed = receiver.got[-1].headers["webhook-signature"].split()
    assert len(signed) == 1
    Webhook(last.secret).verify(receiver.got[-1].body, receiver.got[-1].headers)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (500, UnknownFailure, "answered 500"),
        (404, UnknownFailure, "answered 404"),
        (401, UnknownFailure, "answered 401"),
        ((302, {"Location": "http://127.0.0.1:1/elsewhere"}, ""), UnknownFailure, "a redirect to 127.0.0.1: none is followed"),
        ((308, {"Location": "http://[::1"}, ""), UnknownFailure, "answered 308, a redirect: none is followed"),
        ((429, {"Retry-After": "77"}, ""), RateLimited, "answered 429"),
        ((503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, ""), RateLimited, "answered 503"),
        ((400, {}, "no\0such field"), UnknownFailure, "answered 400: no\ufffdsuch field"),
    ],
)  # fmt: skip
async def test_answers(hooks: Hooks, receiver: Receiver, answer: Any, error: type[Exception], said: str) -> None:
    hooks.endpoint(receiver.url)
    receiver.answer(answer)
    (exc,) = await deliver(hooks, hooks.event())
    assert type(exc) is error
    assert said in str(exc)
    assert len(receiver.got) == 1
    if answer == (429, {"Retry-After": "77"}, ""):
        assert exc.retry_after == 77
    assert "in-the-url" not in str(exc)


async def test_a_long_answer_is_cut(hooks: Hooks, receiver: Receiver) -> None:
    hooks.endpoint(receiver.url)
    receiver.answer((200, {}, "x" * 5_000_000))
    (receipt,) = await deliver(hooks, hooks.event())
    assert receipt.response == "x" * 4096


async def test_who_does_not_answer_in_time_is_given_longer_the_next_time(hooks: Hooks, receiver: Receiver) -> None:
    hooks.endpoint(receiver.url)
    receiver.hold = 0.3
    event = hooks.event()
    hasty = channel(hooks, LOOSE.model_copy(update={"timeout_seconds": 0.2}))
    session = hasty.session()
    [row] = hooks.rows(event)
    with pytest.raises(TimeoutFailure, match=r"ep_\d+ did not answer within 0\.2 s"):
        await session.send(hasty.prepare(message(row)))
    assert (await session.send(hasty.prepare(message(row, attempt=2)))).code == "200"
    await session.close()


async def test_nobody_there(hooks: Hooks, closed_port: int) -> None:
    hooks.endpoint(f"http://127.0.0.1:{closed_port}/hook?token=in-the-url")
    (exc,) = await deliver(hooks, hooks.event())
    assert type(exc) is NetworkFailure
    assert "in-the-url" not in str(exc)


async def test_a_connection_is_kept_and_one_that_was_closed_is_replaced(hooks: Hooks, receiver: Receiver) -> None:
    hooks.endpoint(receiver.url)
    session = channel(hooks).session()
    for _ in range(3):
        await deliver(hooks, hooks.event(), session)
    assert len(receiver.connections) == 1
    receiver.drop = 1
    (receipt,) = await deliver(hooks, hooks.event(), session)
    assert receipt.code == "200"
    assert len(receiver.got) == 5
    assert receiver.ids[-1] == receiver.ids[-2]
    await session.close()


# --- addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "169.254.169.254", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "127.1", "2130706433", "localhost"]
)  # fmt: skip
async def test_a_url_at_a_private_address_is_refused(hooks: Hooks, receiver: Receiver, host: str) -> None:
    made = hooks.endpoint(receiver.url)
    # As if an older release had taken it, or somebody had written it.
    hooks.outbox.sql(
        "UPDATE backline.webhook_endpoint SET url = %s WHERE id = %s",
        f"http://{host}:{receiver.port}/hook", made.endpoint.id,
    )  # fmt: skip
    strict = WebhookSettings(require_https=False)
    (exc,) = await deliver(hooks, hooks.event(), settings=strict)
    assert isinstance(exc, InvalidInput), exc
    assert exc.field == "url"
    refusals = ("is not a public address; if it is yours, add it to webhooks.allowed_addresses", "cannot be used")
    assert any(said in str(exc) for said in refusals)
    assert receiver.got == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "::1", "0.0.0.0", "::ffff:127.0.0.1", "10.0.0.1", "64:ff9b::7f00:1"]
)
async def test_a_name_that_leads_to_a_private_address_is_refused(
    hooks: Hooks, receiver: Receiver, address: str
) -> None:
    hooks.endpoint(f"http://shop.example:{receiver.port}/hook")
    names = Names(address)
    session = WebhookSession(directory(hooks), AddressGuard(()), lambda: names)
    (exc,) = await deliver(hooks, hooks.event(), session)
    await session.close()
    assert isinstance(exc, InvalidInput)
    assert f"shop.example leads to {address}, which is not a public address" in str(exc)
    assert (names.asked, receiver.got) == (1, [])


async def test_a_name_that_changes_after_it_was_well_is_refused(hooks: Hooks, receiver: Receiver) -> None:
    """Rebinding: what is judged is the address that is connected to, each time that one is."""
    hooks.endpoint(f"http://shop.example:{receiver.port}/hook")
    names = Names("127.0.0.1", "127.0.0.2")
    guard = AddressGuard(["127.0.0.1"])
    first, second = (WebhookSession(directory(hooks), guard, lambda: names) for _ in range(2))
    (receipt,) = await deliver(hooks, hooks.event(), first)
    assert receipt.code == "200"
    (exc,) = await deliver(hooks, hooks.event(), second)
    for session in (first, second):
        await session.close()
    assert isinstance(exc, InvalidInput)
    assert "shop.example leads to 127.0.0.2" in str(exc)
    assert len(receiver.got) == 1


# --- what becomes of an endpoint ----------------------------------------------------------------------


def state(hooks: Hooks, made: endpoints.Made) -> endpoints.Endpoint:
    return endpoints.find(hooks.connection, made.endpoint.id)


def notices(hooks: Hooks) -> list[dict[str, Any]]:
    return hooks.outbox.sql("SELECT recipient, payload FROM backline.message WHERE type = 'urgent_email' ORDER BY id")


async def test_gone_is_gone(hooks: Hooks, receiver: Receiver) -> None:
    made, other = hooks.endpoint(receiver.url), hooks.endpoint("http://127.0.0.1:1/")
    waiting = hooks.event()
    receiver.answer(410)
    exc, _ = await deliver(hooks, hooks.event())
    assert isinstance(exc, Rejected)
    found = state(hooks, made)
    assert (found.state, found.disabled_why) == ("disabled", "it answered 410 Gone, which asks for no more events")
    assert state(hooks, other).state == "active"
    first, second = hooks.rows(waiting)
    assert (first["state"], second["state"]) == ("suppressed", "pending")
    assert first["error"].startswith(f"endpoint {made.endpoint.id} was disabled: it answered 410 Gone")
    (notice,) = notices(hooks)
    assert notice["recipient"] == "operator@example.com"
    assert notice["payload"]["context"]["title"] == f"Webhook endpoint {made.endpoint.id} was disabled"
    assert "in-the-url" not in json.dumps(notice["payload"])
    (row,) = hooks.rows(hooks.event())
    assert row["recipient"] == other.endpoint.id


@pytest.mark.usefixtures("fresh")
async def test_five_days_of_failure_disable_once_and_tell_once(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.endpoint(receiver.url)
    receiver.answer(500)
    await deliver(hooks, hooks.event())
    failing = state(hooks, made)
    assert failing.failing_since is not None
    assert "answered 500" in (failing.last_error or "")

    def age(days: float) -> None:
        hooks.outbox.sql(
            "UPDATE backline.webhook_endpoint SET failing_since = clock_timestamp() - %s * interval '1 day'", days
        )

    age(4.99)
    await deliver(hooks, hooks.event())
    assert state(hooks, made).state == "active"
    age(5.01)
    event = hooks.event()
    await asyncio.gather(*(deliver(hooks, event) for _ in range(8)))
    found = state(hooks, made)
    assert found.state == "disabled"
    assert "it has taken nothing for 5 days; the last failure: " in (found.disabled_why or "")
    assert len(notices(hooks)) == 1


@pytest.mark.usefixtures("fresh")
async def test_one_success_in_between_starts_the_days_anew(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.endpoint(receiver.url)
    receiver.answer(500, 200, 500)
    await deliver(hooks, hooks.event())
    hooks.outbox.sql("UPDATE backline.webhook_endpoint SET failing_since = failing_since - interval '6 days'")
    await deliver(hooks, hooks.event())
    assert state(hooks, made).failing_since is None
    await deliver(hooks, hooks.event())
    assert state(hooks, made).state == "active"


async def test_an_endpoint_that_recovered_meanwhile_is_not_disabled(hooks: Hooks, receiver: Receiver) -> None:
    """By what was looked up it has failed for days; by the table it has not."""
    made = hooks.endpoint(receiver.url)
    hooks.outbox.sql("UPDATE backline.webhook_endpoint SET failing_since = clock_timestamp() - interval '6 days'")
    book = directory(hooks)
    known = await book.target(made.endpoint.id)
    assert known is not None
    assert (known.failing_seconds or 0) > 5 * DAY
    await book.took(known)
    await book.failed(known, UnknownFailure("answered 500"))
    await book.close()
    assert state(hooks, made).state == "active"
    assert notices(hooks) == []


async def test_a_disabled_and_a_deleted_endpoint_get_nothing(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.endpoint(receiver.url)
    held = hooks.rows(hooks.event())[0]
    over = channel(hooks)
    hooks.outbox.sql("UPDATE backline.webhook_endpoint SET state = 'disabled', disabled_why = 'x', disabled_at = now()")
    session = over.session()
    with pytest.raises(Rejected, match=f"endpoint {made.endpoint.id} is disabled: x"):
        await session.send(over.prepare(message(held)))
    await session.close()
    hooks.outbox.sql("DELETE FROM backline.webhook_endpoint")
    session = over.session()
    with pytest.raises(Rejected, match="it was deleted"):
        await session.send(over.prepare(message(held)))
    await session.close()
    assert receiver.got == []


async def test_a_secret_that_no_key_opens_is_not_the_endpoints_failure(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.endpoint(receiver.url)
    other = Sealer([Fernet.generate_key().decode()])
    book = Directory(hooks.outbox.dsn, lambda: other, disable_after=DAY, recipients=())
    session = WebhookSession(book, AddressGuard(["127.0.0.1"]))
    (exc,) = await deliver(hooks, hooks.event(), session)
    await session.close()
    assert isinstance(exc, Misconfigured)
    assert made.endpoint.id in str(exc)
    assert state(hooks, made).failing_since is None


# --- the whole way ------------------------------------------------------------------------------------


async def dispatch(hooks: Hooks, over: WebhookChannel) -> dict[str, object]:
    """Drain the lane once, as a run by hand does."""
    config = load(config_file())
    delivery = Delivery(over, _policies("webhook", config), lambda _type, payload: payload, random.Random(1).random)
    served: Dispatcher[PreparedWebhook] = Dispatcher(
        "webhook.normal", LANE, OutboxSettings(), hooks.outbox.dsn, over, delivery, once=True
    )
    return (await served.run()).as_dict()


async def test_a_run_hands_an_event_on_and_delivers_to_one_endpoint_itself(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.endpoint(receiver.url)

    async def send(to: str) -> Result:
        over = channel(hooks)
        delivery = Delivery(over, DEFAULT_RETRIES, lambda _type, payload: payload, random.Random(1).random)
        sender = DirectSender(hooks.outbox.dsn, {"webhook": Way(over, delivery, LANE)})
        request = Request("webhook", to, {"event_type": "order.paid", "data": {"order": "1042"}}, f"dag/{to}")
        [result] = await sender.send(request, f"dag/{to}")
        return result

    event = await send("*")
    assert (event.state, event.provider_id) == ("sent", "1 endpoint")
    (row,) = hooks.rows(event.message_id)
    assert (row["state"], receiver.got) == ("pending", [])  # retries may take a day: the lane's, not the run's
    assert (await send(made.endpoint.id)).state == "sent"
    assert len(receiver.got) == 1


async def test_the_dispatcher_tries_again_by_the_schedule(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.endpoint(receiver.url)
    receiver.answer(500)
    event = hooks.event()
    pauses = []
    for _ in range(8):
        await dispatch(hooks, channel(hooks))
        (row,) = hooks.outbox.sql(
            "SELECT id, state, extract(epoch FROM due_at - clock_timestamp())::float8 AS due_in FROM backline.message"
            " WHERE group_id = %s", event,
        )  # fmt: skip
        if row["state"] == "scheduled":
            pauses.append(row["due_in"])
            hooks.outbox.make_due(row["id"])
    assert row["state"] == "dead"
    assert len(pauses) == 7
    for pause, wanted in zip(pauses, (5, 300, 1800, 7200, 18_000, 36_000, 36_000), strict=True):
        assert 0.79 * wanted - 2 < pause < 1.21 * wanted
    assert len(set(receiver.ids)) == 1
    assert len(receiver.got) == 8
    tries = hooks.outbox.sql(
        "SELECT code, outcome FROM backline.attempt WHERE message_id = %s ORDER BY number", row["id"]
    )
    assert [one["code"] for one in tries] == ["500"] * 8
    assert state(hooks, made).state == "active"


async def test_a_retry_after_is_obeyed(hooks: Hooks, receiver: Receiver) -> None:
    hooks.endpoint(receiver.url)
    receiver.answer((503, {"Retry-After": "900"}, ""))
    event = hooks.event()
    await dispatch(hooks, channel(hooks))
    (row,) = hooks.outbox.sql(
        "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 AS due_in FROM backline.message WHERE group_id = %s",
        event,
    )
    assert 890 < row["due_in"] <= 1080


async def test_many_events_reach_many_endpoints_once_each(hooks: Hooks, receiver: Receiver) -> None:
    made = [hooks.endpoint(receiver.url) for _ in range(3)]
    ids = hooks.outbox.value(
        "SELECT backline.enqueue_many('webhook', array_fill('*'::text, ARRAY[200]),"
        " (SELECT array_agg(jsonb_build_object('event_type', 'order.paid', 'data', jsonb_build_object('order', n)))"
        "  FROM generate_series(1, 200) AS n))"
    )
    assert len(set(ids)) == 200
    report = await dispatch(hooks, channel(hooks))
    assert report["sent"] == 600
    seen: dict[str, int] = {}
    for got in receiver.got:
        seen[got.headers["webhook-id"]] = seen.get(got.headers["webhook-id"], 0) + 1
    assert sorted(seen.values()) == [3] * 200
    orders = [json.loads(got.body)["data"]["order"] for got in receiver.got]
    assert sorted(orders) == sorted([*range(1, 201)] * 3)
    assert len(made) == 3
    assert hooks.outbox.states() == {"sent": 800}


async def test_an_endpoint_that_hangs_does_not_keep_the_others_waiting(hooks: Hooks, receiver: Receiver) -> None:
    async with listening() as hanging:
        hanging.hold = 0.4
        bad, good = hooks.endpoint(hanging.url), hooks.endpoint(receiver.url)
        hooks.outbox.sql("UPDATE backline.webhook_endpoint SET failing_since = now() - interval '1 minute' WHERE id = %s",
                         bad.endpoint.id)  # fmt: skip
        for number in range(20):
            hooks.event(to=bad.endpoint.id, event_id=f"bad_{number}")
        for number in range(20):
            hooks.event(to=good.endpoint.id, event_id=f"good_{number}")
        report = await dispatch(
            hooks, channel(hooks, LOOSE.model_copy(update={"concurrency": 2, "timeout_seconds": 0.2}))
        )
        assert (len(hanging.got), len(receiver.got)) == (1, 20)
        assert report["sent"] == 20
    rows = hooks.outbox.sql(
        "SELECT attempt, state, extract(epoch FROM due_at - now()) AS pause FROM backline.message WHERE recipient = %s"
        " ORDER BY attempt", bad.endpoint.id,
    )  # fmt: skip
    assert [row["attempt"] for row in rows] == [0] * 19 + [1]
    assert {row["state"] for row in rows} == {"scheduled"}
    assert all(10 < row["pause"] <= 45 for row in rows[:19])


async def test_what_is_in_hand_when_an_endpoint_begins_to_fail_waits_too(hooks: Hooks, receiver: Receiver) -> None:
    async with listening() as hanging:
        hanging.hold = 30.0
        bad, good = hooks.endpoint(hanging.url), hooks.endpoint(receiver.url)
        for number in range(20):
            hooks.event(to=bad.endpoint.id, event_id=f"bad_{number}")
        for number in range(20):
            hooks.event(to=good.endpoint.id, event_id=f"good_{number}")
        running = asyncio.create_task(
            dispatch(hooks, channel(hooks, LOOSE.model_copy(update={"concurrency": 2, "timeout_seconds": 3.0})))
        )
        await hanging.came.wait()
        hooks.outbox.sql("UPDATE backline.webhook_endpoint SET failing_since = now() - interval '1 minute' WHERE id = %s",
                         bad.endpoint.id)  # fmt: skip
        report = await running
        assert len(hanging.got) == 2
        assert report["sent"] == len(receiver.got) == 20


async def test_one_failure_among_many_holds_nothing_up(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.endpoint(receiver.url)
    hooks.outbox.sql("UPDATE backline.webhook_endpoint SET failing_since = now() - interval '2 seconds'")
    for number in range(20):
        hooks.event(to=made.endpoint.id, event_id=f"evt_{number}")
    report = await dispatch(hooks, channel(hooks))
    assert report["sent"] == len(receiver.got) == 20
