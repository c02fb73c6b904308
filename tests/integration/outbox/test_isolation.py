"""One message that cannot be read, built, sent or written back affects only itself."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from backline.channels.base import Message, Receipt
from backline.db.connect import session
from backline.delivery_events.events import DeliveryEvent, bounce, record_events
from backline.errors import DatabaseFailure, Rejected
from backline.messages import registry
from backline.outbox.delivery import BUILDING_THREADS, INLINE_PAYLOAD_LENGTH, Delivery
from backline.outbox.dispatcher import Dispatcher
from backline.outbox.queries import get_message
from backline.outbox.recipient_policy import each_alone
from backline.outbox.store import LeasedMessage
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
        self.released = threading.Event()

    def prepare(self, message: Message) -> Message:
        registry.get(message.type)
        if message.payload.get("subject") == "a bug":
            raise RecursionError
        if message.payload.get("subject") == "slow":
            self.released.wait(60)
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


def dispatch(outbox: Outbox, channel: Catcher | None = None) -> Catcher:
    channel = channel or Catcher()
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


def test_what_a_receiver_says_is_cleaned_before_it_is_stored_or_logged(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    refused, accepted = outbox.enqueue(payload=json.dumps({**PAYLOAD, "subject": "refused"})), outbox.enqueue()
    assert dispatch(outbox).sent == [accepted]
    assert outbox.message(refused)["error"] == "no \\x00 such \\ud83d number"
    [attempt] = outbox.attempts(refused)
    assert (attempt["code"], attempt["response"]) == ("400\\x00", '{"message": "bad \\x00"}')
    assert outbox.message(accepted)["provider_id"] == f"id-\\x00{accepted}"
    [logged] = [record.getMessage() for record in caplog.records if f"message {refused} is" in record.getMessage()]
    assert logged.endswith("no \\x00 such \\ud83d number")


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


def test_a_message_of_a_type_that_is_gone_ends(outbox: Outbox) -> None:
    gone, expired, rescued, good = (outbox.enqueue() for _ in range(4))
    outbox.sql("UPDATE backline.message SET type = 'gone' WHERE id <> %s", good)
    outbox.sql("UPDATE backline.message SET expires_at = created_at WHERE id = %s", expired)
    assert outbox.run(outbox.store.expire()) == 1
    outbox.claim()
    outbox.expire_leases(gone, rescued, good)
    assert outbox.rescue() == 3
    assert dispatch(outbox).sent == [good]
    row = outbox.message(gone)
    assert (row["state"], row["error_class"], row["attempt"]) == ("dead", "validation", 1)
    assert row["error"].startswith("type: 'gone' is not a message type")
    assert outbox.message(expired)["state"] == "expired"


def test_a_message_that_takes_too_long_to_build_is_dead_and_delays_no_other(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backline.outbox.delivery.PREPARE_TIMEOUT_SECONDS", 0.3)
    large = {**PAYLOAD, "text": "x" * INLINE_PAYLOAD_LENGTH}
    slow = [outbox.enqueue(payload=json.dumps({**large, "subject": "slow"})) for _ in range(BUILDING_THREADS + 1)]
    good = [outbox.enqueue(), outbox.enqueue(payload=json.dumps(large))]
    channel = Catcher()
    try:
        assert set(dispatch(outbox, channel).sent) == set(good)
    finally:
        channel.released.set()
    for message in slow:
        row = outbox.message(message)
        assert (row["state"], row["error_class"], row["attempt"]) == ("dead", "validation", 1)
        assert "to build; make it smaller" in row["error"]


def test_a_message_that_cannot_be_checked_fails_alone(outbox: Outbox) -> None:
    ids = outbox.enqueue_many(5)
    checked: list[list[int]] = []

    async def check(messages: list[LeasedMessage]) -> list[LeasedMessage]:
        checked.append([message.id for message in messages])
        if ids[2] in checked[-1]:
            raise OverflowError
        return messages

    admitted = outbox.run(each_alone(check, outbox.claim()))
    assert [(message.id, message.problem is not None) for message in admitted] == [(one, one == ids[2]) for one in ids]
    assert "cannot be checked before it is sent: unexpected OverflowError" in str(admitted[2].problem)

    async def no_database(_: list[LeasedMessage]) -> list[LeasedMessage]:
        raise DatabaseFailure

    with pytest.raises(DatabaseFailure):
        outbox.run(each_alone(no_database, admitted))


def test_a_rescue_says_why(outbox: Outbox) -> None:
    registered = outbox.run(outbox.store.register("email.normal", 2, "dispatch_email/run/1"))
    assert registered is not None
    message = outbox.enqueue()
    outbox.claim(dispatcher=registered[0])
    outbox.stop_heartbeat(registered[0])
    assert outbox.rescue() == 1
    outbox.sql(
        "INSERT INTO backline.dead_letter (kind, name, run_id, task_id, map_index, class, cause, attempts, failed_at)"
        " VALUES ('job', 'dispatch_email', 'run/1', 'dispatch', -1, 'unknown', 'killed by SIGKILL: out of memory', 1, now())"
    )
    with session(outbox.dsn, name="test") as connection:
        found = get_message(connection, message)
    assert found is not None
    [rescue] = [event for event in found.timeline if event.event == "rescued"]
    assert rescue.text.startswith(
        "the process that held it died or lost it (no heartbeat for 3600 s: killed by SIGKILL"
    )
    assert rescue.attempt is not None
    assert rescue.attempt.log_path() == "/dags/dispatch_email/runs/run%2F1/tasks/dispatch"
    outbox.claim_rescued()
    outbox.expire_leases(message)
    assert outbox.rescue(max_rescues=1) == 1
    error = outbox.message(message)["error"]
    assert error == (
        "its dispatcher died 2 times while it held this message, which may be the cause; the last time: the run that was sending it "
        "did not renew its lease; an earlier time: killed by SIGKILL: out of memory"
    )


def test_a_delivery_event_that_cannot_be_stored_keeps_out_no_other(outbox: Outbox) -> None:
    now = datetime.now(UTC)
    events = [
        DeliveryEvent("1", "email", "delivered", now, "ann@example.com"),
        bounce(hard=True, source_id="2", channel="email", at=now, recipient="<>"),
        DeliveryEvent("3", "email", "no such event", now, "ben@example.com"),  # type: ignore[arg-type]
        bounce(hard=True, source_id="4", channel="email", at=now, recipient="cid@example.com"),
    ]
    with session(outbox.dsn, name="test") as connection, connection.transaction():
        assert record_events(connection, "ses", events) == 2
    assert outbox.value("SELECT address FROM backline.suppression") == "cid@example.com"


def test_a_message_that_a_trigger_of_the_app_refuses_to_move_stops_no_dispatcher(outbox: Outbox) -> None:
    stuck, good = outbox.enqueue(), outbox.enqueue()
    outbox.sql("UPDATE backline.message SET expires_at = created_at WHERE id = %s", stuck)
    outbox.connection.execute(
        f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = {stuck} AND NEW.state <> 'leased' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON backline.message FOR EACH ROW EXECUTE FUNCTION refuse()"""
    )
    try:
        assert outbox.run(outbox.store.expire()) == 0
        first, second = outbox.claim()
        assert outbox.complete(finished_outcome(first), finished_outcome(second)) == {good: "sent"}
    finally:
        outbox.connection.execute("DROP FUNCTION refuse CASCADE")
