"""Messages of one version of a type, sent by dispatchers that know another one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

import psycopg
import pytest
from psycopg.rows import DictRow
from pydantic import Field

from backline.audit_trail import Actor
from backline.channels.base import Message, Receipt
from backline.encryption import Encryptor
from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.base import EmailMessage, MessageType
from backline.messages.sync import sync_type
from backline.outbox.delivery import Delivery, SecretResolver
from backline.outbox.dispatcher import Dispatcher, DispatchReport
from backline.outbox.inline_delivery import InlineSender, Route
from backline.outbox.submission import InvalidStateTransition, NewMessage, enqueue_many, replace_payload, replay
from backline.settings import DEFAULT_RETRY_POLICIES, LaneSettings, OutboxSettings, settings
from tests.integration.conftest import TEST_FERNET_KEY
from tests.integration.outbox.support import Outbox

LANE = LaneSettings(channel="email", idle_timeout_seconds=30, batch_size=100)
TEXT = Annotated[str, Field(min_length=1, max_length=100)]
ENCRYPTOR = Encryptor([TEST_FERNET_KEY])
WHO = Actor("ann")
Deploy = Callable[..., None]


class Invitation(EmailMessage):
    """Version 1."""

    secret_fields: ClassVar[frozenset[str]] = frozenset()

    title: TEXT
    about: TEXT | None = None


Invitation.declare("invitation", {"email": "email.normal"})


class NewInvitation(EmailMessage):
    """Version 2: `title` is `subject`, `about` is `topic`, and `size` is required."""

    version: ClassVar[int] = 2
    secret_fields: ClassVar[frozenset[str]] = frozenset()

    subject: TEXT
    size: int
    topic: TEXT | None = None

    @classmethod
    def upgrade(cls, payload: Mapping[str, Any], from_version: int) -> Mapping[str, Any]:
        if payload["title"] == "bug":
            raise KeyError("bug")
        if payload["title"] == "refused":
            raise InvalidInput("title", "cannot be converted")
        return {"subject": payload["title"], "size": from_version, "topic": payload.get("about")}


NewInvitation.declare("invitation", {"email": "email.normal"})


class SecretInvitation(EmailMessage):
    """Version 1, with a secret."""

    secret_fields: ClassVar[frozenset[str]] = frozenset({"code"})

    code: TEXT


SecretInvitation.declare("secret_invitation", {"email": "email.normal"})


class NewSecretInvitation(EmailMessage):
    """Version 2: the secret has another name."""

    version: ClassVar[int] = 2
    secret_fields: ClassVar[frozenset[str]] = frozenset({"password"})

    password: TEXT

    @classmethod
    def upgrade(cls, payload: Mapping[str, Any], from_version: int) -> Mapping[str, Any]:  # noqa: ARG003
        return {"password": payload["code"]}


NewSecretInvitation.declare("secret_invitation", {"email": "email.normal"})


class RecordingChannel:
    """Keeps the payloads that the code's version of the type accepts."""

    name = "email"
    connections = 1
    messages_per_session = 1

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def prepare(self, message: Message) -> dict[str, Any]:
        return registry.get(message.type).parse(message.payload).model_dump(exclude_none=True)

    def session(self) -> RecordingChannel:
        return self

    async def send(self, prepared: dict[str, Any]) -> Receipt:
        self.sent.append(prepared)
        return Receipt("250", "250 Ok", "provider-1")

    async def close(self) -> None:
        pass


@pytest.fixture
def channel() -> RecordingChannel:
    return RecordingChannel()


@pytest.fixture
def deploy(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deploy]:
    """Make this process, or the database alone, know one version of a type."""
    types: dict[str, type[MessageType]] = registry._types

    def run(kind: type[MessageType], *, code: bool = True, database: bool = True) -> None:
        if code:
            monkeypatch.setitem(types, kind.type_name, kind)
        if database:
            sync_type(outbox.connection, kind, settings())

    yield run
    outbox.truncate()


def dispatch(outbox: Outbox, channel: RecordingChannel) -> DispatchReport:
    """A dispatcher that drains the lane."""
    secrets = SecretResolver(lambda: outbox.dsn, lambda: ENCRYPTOR)
    delivery = Delivery(channel, DEFAULT_RETRY_POLICIES, lambda: 0.5, secrets)
    dispatcher = Dispatcher("email.normal", LANE, OutboxSettings(), outbox.dsn, channel, delivery, once=True)
    return asyncio.run(dispatcher.run())


def enqueue(outbox: Outbox, payload: Mapping[str, Any], **options: Any) -> int:
    return outbox.enqueue(type="invitation", payload=json.dumps(payload), **options)


def test_an_old_message_is_upgraded_and_sent(outbox: Outbox, deploy: Deploy, channel: RecordingChannel) -> None:
    deploy(Invitation)
    made = enqueue(outbox, {"title": "Party"})
    assert outbox.message(made)["type_version"] == 1
    deploy(NewInvitation)
    assert dispatch(outbox, channel).outcomes == {"sent": 1}
    assert channel.sent == [{"subject": "Party", "size": 1}]
    assert outbox.message(made)["payload"] == {"title": "Party"}, "the stored payload stays as it was enqueued"


def test_an_old_app_goes_on_while_the_database_knows_the_old_type(
    outbox: Outbox, deploy: Deploy, channel: RecordingChannel
) -> None:
    deploy(Invitation)
    deploy(NewInvitation, database=False)
    made = enqueue(outbox, {"title": "Party"})
    assert outbox.message(made)["type_version"] == 1
    assert dispatch(outbox, channel).outcomes == {"sent": 1}


def test_an_old_dispatcher_leaves_a_new_message_to_a_new_one(
    outbox: Outbox, deploy: Deploy, channel: RecordingChannel
) -> None:
    deploy(NewInvitation, code=False)
    deploy(Invitation, database=False)
    made = enqueue(outbox, {"subject": "Party", "size": 5})
    assert dispatch(outbox, channel).outcomes == {"deferred": 1}
    row = outbox.message(made)
    assert (row["state"], row["attempt"], row["rescues"], row["lease_token"]) == ("scheduled", 0, 0, None)
    assert row["error"] == "its payload is of a newer version than the dispatcher knows; it waits for a newer one"
    assert row["error_class"] is None
    assert not row["rate_token_reserved"]
    assert timedelta(0) < row["due_at"] - datetime.now(UTC) < timedelta(minutes=1)
    assert channel.sent == []
    outbox.make_due(made)
    assert dispatch(outbox, channel).outcomes == {"deferred": 1}
    deploy(NewInvitation)
    outbox.make_due(made)
    assert dispatch(outbox, channel).outcomes == {"sent": 1}
    assert channel.sent == [{"subject": "Party", "size": 5}]
    assert outbox.message(made)["error"] is None


def test_a_new_message_that_no_new_dispatcher_takes_expires(
    outbox: Outbox, deploy: Deploy, channel: RecordingChannel
) -> None:
    deploy(NewInvitation, code=False)
    deploy(Invitation, database=False)
    made = enqueue(outbox, {"subject": "Party", "size": 5}, expires_at=datetime.now(UTC) + timedelta(hours=1))
    dispatch(outbox, channel)
    outbox.sql("UPDATE backline.message SET expires_at = clock_timestamp() - interval '1 s' WHERE id = %s", made)
    assert outbox.run(outbox.store.expire()) == 1
    assert outbox.message(made)["state"] == "expired"


def test_other_messages_are_sent_beside_a_newer_one(outbox: Outbox, deploy: Deploy, channel: RecordingChannel) -> None:
    deploy(Invitation)
    enqueue(outbox, {"title": "Party"})
    deploy(NewInvitation, code=False)
    enqueue(outbox, {"subject": "Party", "size": 5})
    assert dispatch(outbox, channel).outcomes == {"sent": 1, "deferred": 1}


@pytest.mark.parametrize(("title", "state", "error"), [
    ("refused", "dead", "title: cannot be converted"), ("bug", "dead", "payload: the message cannot be built: unexpected KeyError at "),
])  # fmt: skip
def test_a_failing_upgrade_is_a_failed_attempt(
    outbox: Outbox, deploy: Deploy, channel: RecordingChannel, title: str, state: str, error: str
) -> None:
    deploy(Invitation)
    broken, good = enqueue(outbox, {"title": title}), enqueue(outbox, {"title": "Party"})
    deploy(NewInvitation)
    dispatch(outbox, channel)
    row = outbox.message(broken)
    assert (row["state"], row["attempt"]) == (state, 1)
    assert row["error"].startswith(error)
    assert outbox.message(good)["state"] == "sent"


def test_preferences_apply_to_the_upgraded_payload(outbox: Outbox, deploy: Deploy, channel: RecordingChannel) -> None:
    deploy(Invitation)
    made = enqueue(outbox, {"title": "Party", "about": "newsletter"})
    outbox.sql("SELECT backline.opt_out('email', 'ann@example.com', 'newsletter')")
    deploy(NewInvitation)
    assert dispatch(outbox, channel).outcomes == {"suppressed": 1}
    assert outbox.message(made)["state"] == "suppressed"


def test_secrets_are_decrypted_after_the_upgrade(outbox: Outbox, deploy: Deploy, channel: RecordingChannel) -> None:
    deploy(SecretInvitation)
    payload = json.dumps({"code": ENCRYPTOR.encrypt("s3cret")})
    outbox.enqueue(type="secret_invitation", payload=payload)
    deploy(NewSecretInvitation)
    assert dispatch(outbox, channel).outcomes == {"sent": 1}
    assert channel.sent == [{"password": "s3cret"}]


def test_every_way_to_enqueue_stores_the_version(outbox: Outbox, deploy: Deploy) -> None:
    deploy(NewInvitation)
    payload = {"subject": "Party", "size": 5}
    keyed = enqueue_many(outbox.connection, [NewMessage("invitation", "ann@example.com", payload, key="k")])
    many = enqueue_many(outbox.connection, [NewMessage("invitation", f"r{n}@example.com", payload) for n in range(3)])
    outbox.sql("UPDATE backline.message_type SET version = 3 WHERE name = 'webhook'")
    outbox.sql(
        "INSERT INTO backline.webhook_endpoint (url, event_types) VALUES ('https://example.com/hook', ARRAY['*'])"
    )
    event = enqueue_many(outbox.connection, [NewMessage("webhook", "*", {"event_type": "order.paid", "data": {}})])
    versions = {row["id"]: row["type_version"] for row in outbox.sql("SELECT id, type_version FROM backline.message")}
    assert {versions[one] for one in keyed + many} == {2}
    assert versions[event[0]] == 3
    assert sorted(versions.values()) == [2, 2, 2, 2, 3, 3], "the endpoint's message as well"
    outbox.sql("TRUNCATE backline.webhook_endpoint CASCADE")
    outbox.sql("UPDATE backline.message_type SET version = 1 WHERE name = 'webhook'")


def final(outbox: Outbox, message_id: int) -> int:
    outbox.cancel(message_id)
    return message_id


def replayed(outbox: Outbox, message_id: int, payload: dict[str, Any] | None = None) -> DictRow:
    connection: psycopg.Connection[DictRow] = outbox.connection
    new_id, _ = replay(connection, message_id, None, WHO, ENCRYPTOR, payload=payload)
    return outbox.message(new_id)


def test_a_replay_upgrades_the_payload(outbox: Outbox, deploy: Deploy) -> None:
    deploy(Invitation)
    made = final(outbox, enqueue(outbox, {"title": "Party"}))
    deploy(NewInvitation)
    row = replayed(outbox, made)
    assert (row["payload"], row["type_version"]) == ({"subject": "Party", "size": 1, "topic": None}, 2)
    edited = replayed(outbox, made, {"subject": "Dinner", "size": 2})
    assert (edited["payload"], edited["type_version"]) == ({"subject": "Dinner", "size": 2}, 2)


def test_an_old_server_does_not_replay_a_newer_message(outbox: Outbox, deploy: Deploy) -> None:
    deploy(NewInvitation)
    made = final(outbox, enqueue(outbox, {"subject": "Party", "size": 5}))
    deploy(Invitation, database=False)
    with pytest.raises(InvalidStateTransition, match="is of a newer version than this server knows"):
        replayed(outbox, made)


def test_a_replaced_payload_is_of_the_current_version(
    outbox: Outbox, deploy: Deploy, channel: RecordingChannel
) -> None:
    deploy(Invitation)
    made = enqueue(outbox, {"title": "Party"}, due_at=datetime.now(UTC) + timedelta(days=1))
    deploy(NewInvitation)
    assert replace_payload(outbox.connection, made, {"subject": "Dinner", "size": 2}, WHO)
    assert outbox.message(made)["type_version"] == 2
    assert dispatch(outbox, channel).outcomes == {"sent": 1}
    assert channel.sent == [{"subject": "Dinner", "size": 2}]


def test_a_run_leaves_a_newer_message_to_a_newer_worker(
    outbox: Outbox, deploy: Deploy, channel: RecordingChannel
) -> None:
    deploy(NewInvitation, code=False)
    deploy(Invitation, database=False)
    delivery = Delivery(channel, DEFAULT_RETRY_POLICIES, lambda: 0.5)
    request = NewMessage("invitation", "ann@example.com", {"subject": "Party", "size": 5}, "run-1")

    def send() -> tuple[str, int]:
        sender = InlineSender(outbox.dsn, {"email": Route(channel, delivery, LANE)})
        [result] = asyncio.run(sender.send(request, None))
        return result.state, result.attempt

    assert send() == ("scheduled", 0)
    deploy(NewInvitation)
    outbox.sql("UPDATE backline.message SET due_at = clock_timestamp() - interval '1 s'")
    assert send() == ("sent", 1)
