"""One message that cannot be read, built, sent or written back affects only itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psycopg
import pytest

from backline.channels.base import Message, Receipt
from backline.db.connect import session
from backline.errors import Rejected
from backline.outbox.delivery import Delivery
from backline.outbox.dispatcher import Dispatcher
from backline.settings import DEFAULT_RETRY_POLICIES, LaneSettings, OutboxSettings
from tests.integration.outbox.support import PAYLOAD, Outbox, finished_outcome

LANE = LaneSettings(channel="email", batch_size=100)
DEEP = "[" * 400 + "]" * 400


class Catcher:
    """A channel that keeps what it is given, and answers as the message's subject says."""

    name = "email"
    connections = 2
    messages_per_session = 1

    def __init__(self) -> None:
        self.sent: list[int] = []

    def prepare(self, message: Message) -> Message:
        if message.payload.get("subject") == "a bug":
            raise RecursionError
        return message

    def session(self) -> Catcher:
        return self

    async def send(self, prepared: Message) -> Receipt:
        if prepared.payload["subject"] == "refused":
            raise Rejected("no \0 such \ud83d number", code="400\0", response='{"message": "bad \0"}')
        self.sent.append(prepared.id)
        return Receipt("200", "fine \0 \ud83d", f"id-\0{prepared.id}")

    async def close(self) -> None:
        pass


def dispatch(outbox: Outbox) -> Catcher:
    channel = Catcher()
    delivery = Delivery(channel, DEFAULT_RETRY_POLICIES, lambda: 0.5)
    dispatcher = Dispatcher("email.normal", LANE, OutboxSettings(), outbox.dsn, channel, delivery, once=True)
    asyncio.run(asyncio.wait_for(dispatcher.run(), 30))
    return channel


def with_payload(outbox: Outbox, payload: str) -> int:
    """A message whose payload got past every check."""
    message = outbox.enqueue()
    outbox.sql("UPDATE backline.message SET payload = %s::jsonb WHERE id = %s", payload, message)
    return message


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (f'{{"subject": "x", "text": {DEEP}}}', "payload: cannot be read"),
        ('{"subject": "a bug", "text": "x"}', "payload: the message cannot be built: unexpected RecursionError"),
    ],
)
def test_a_payload_that_python_cannot_handle_is_dead_at_its_first_attempt(
    outbox: Outbox, payload: str, reason: str
) -> None:
    before, broken, after = outbox.enqueue(), with_payload(outbox, payload), outbox.enqueue()
    assert set(dispatch(outbox).sent) == {before, after}
    row = outbox.message(broken)
    assert (row["state"], row["error_class"], row["attempt"], row["rescues"]) == ("dead", "validation", 1, 0)
    assert row["error"].startswith(reason)


def test_what_a_receiver_says_is_cleaned_before_it_is_stored(outbox: Outbox) -> None:
    refused, accepted = outbox.enqueue(payload=json.dumps({**PAYLOAD, "subject": "refused"})), outbox.enqueue()
    assert dispatch(outbox).sent == [accepted]
    assert outbox.message(refused)["error"] == "no \\x00 such \\ud83d number"
    [attempt] = outbox.attempts(refused)
    assert (attempt["code"], attempt["response"]) == ("400\\x00", '{"message": "bad \\x00"}')
    assert outbox.message(accepted)["provider_id"] == f"id-\\x00{accepted}"


def test_an_outcome_that_cannot_be_stored_does_not_undo_its_neighbours(outbox: Outbox) -> None:
    outbox.enqueue_many(3)
    first, second, third = outbox.claim()
    outcomes = (finished_outcome(first), finished_outcome(second, "no such state"), finished_outcome(third))
    assert outbox.complete(*outcomes) == {first.id: "sent", third.id: "sent"}
    assert outbox.message(second.id)["state"] == "leased"


@pytest.mark.parametrize(
    ("option", "time"),
    [("due_at", "-infinity"), ("due_at", "infinity"), ("due_at", "0044-03-15 BC"), ("due_at", "10000-01-01"),
     ("expires_at", "infinity"), ("expires_at", "10000-01-01")],
)  # fmt: skip
def test_a_time_that_python_cannot_hold_is_refused(outbox: Outbox, option: str, time: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"{option}: must be a time"):
        outbox.enqueue(**{option: time})
    call = f"SELECT backline.enqueue_many('email', ARRAY['a@example.com', 'b@example.com'], array_fill(%s::jsonb, ARRAY[2]), {option} => %s)"
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"{option}: must be a time"):
        outbox.connection.execute(call, (json.dumps(PAYLOAD), time))
    message = outbox.enqueue()
    with pytest.raises(psycopg.errors.CheckViolation):
        outbox.connection.execute(f"UPDATE backline.message SET {option} = %s WHERE id = %s", (time, message))


@pytest.mark.parametrize("date_style", ["German", "SQL, DMY", "Postgres"])
def test_a_role_with_other_formats_changes_nothing(outbox: Outbox, date_style: str) -> None:
    name = outbox.connection.info.dbname
    outbox.connection.execute(f'ALTER DATABASE "{name}" SET datestyle = {date_style!r}')
    outbox.connection.execute(f"ALTER DATABASE \"{name}\" SET intervalstyle = 'iso_8601'")
    try:
        message = outbox.enqueue()
        assert dispatch(outbox).sent == [message]
        with session(outbox.dsn, name="test") as connection:
            row: Any = connection.execute("SELECT now() AS now, interval '1 day' AS day").fetchone()
        assert (row["now"].tzinfo is not None, row["day"].days) == (True, 1)
    finally:
        outbox.connection.execute(f'ALTER DATABASE "{name}" RESET ALL')


def test_midnight_as_24_00_is_stored_as_00_00(outbox: Outbox) -> None:
    outbox.sql("SELECT backline.set_preference('email', 'night@example.com', 'Europe/Berlin', '17:00', '24:00')")
    assert outbox.value("SELECT quiet_until::text FROM backline.recipient_preference") == "00:00:00"
    message = outbox.enqueue("night@example.com")
    dispatch(outbox)
    assert outbox.message(message)["state"] in {"sent", "scheduled"}
