"""Messages through their states, one statement at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet

from backline.encryption import Encryptor
from backline.outbox.store import LeasedMessage
from backline.outbox.wakeup_policy import LaneStatus
from tests.integration.outbox.support import (
    MAX_RESCUES,
    PAYLOAD,
    Outbox,
    claim_from_head,
    failed_outcome,
    finished_outcome,
    new_token,
)

NOW = datetime.now(UTC)
LATER = NOW + timedelta(hours=1)


def lease_one(outbox: Outbox, **options: Any) -> LeasedMessage:
    """A message that is leased without a dispatcher."""
    outbox.enqueue(**options)
    [message] = outbox.claim()
    return message


# --- claim ---------------------------------------------------------------------------------------------


def test_a_claim_takes_first_priority_then_due_time_then_id(outbox: Outbox) -> None:
    low = outbox.enqueue(priority=2)
    late, early = outbox.enqueue(due_at=NOW - timedelta(minutes=1)), outbox.enqueue(due_at=NOW - timedelta(minutes=2))
    same = [outbox.enqueue(due_at=NOW - timedelta(minutes=3)) for _ in range(2)]
    high = outbox.enqueue(priority=9)
    assert [message.id for message in outbox.claim()] == [high, *same, early, late, low]


def test_a_claim_takes_the_first_of_many(outbox: Outbox) -> None:
    low = outbox.enqueue_many(5, priority=2)
    high = outbox.enqueue_many(3, priority=9)
    assert [message.id for message in outbox.claim(4)] == [*high, low[0]]
    assert [message.id for message in outbox.claim(10)] == low[1:]
    assert outbox.claim(10) == []


def test_a_claim_ignores_other_lanes_later_and_final_messages(outbox: Outbox) -> None:
    outbox.enqueue(type="urgent_email", payload='{"context": {}}')
    outbox.enqueue(due_at=LATER)
    outbox.complete(finished_outcome(lease_one(outbox)))
    assert outbox.claim() == []


def test_a_lease_has_what_is_needed_to_send(outbox: Outbox) -> None:
    dispatcher = outbox.dispatcher()
    made = outbox.enqueue(expires_at=LATER)
    [message] = outbox.claim(dispatcher=dispatcher)
    row = outbox.message(made)
    assert (message.recipient, message.payload, message.attempt, message.max_attempts) == (
        "ann@example.com",
        PAYLOAD,
        0,
        6,
    )
    assert message.send_deadline is not None
    assert message.send_deadline - message.lease_deadline == pytest.approx(
        (LATER - datetime.now(UTC)).total_seconds() - 60, abs=5
    )
    assert (row["state"], row["lease_token"], row["dispatcher"]) == ("leased", message.token, dispatcher)
    assert (
        55
        < outbox.value("SELECT extract(epoch FROM leased_until - clock_timestamp())::float8 FROM backline.message")
        <= 60
    )


def test_two_concurrent_claims_share_nothing(outbox: Outbox) -> None:
    ids = outbox.enqueue_many(20)
    with Outbox(outbox.dsn) as other, other.connection.transaction():
        held = [row["id"] for row in other.run_statement("message_claim", **claim_from_head(8))]
        assert [message.id for message in outbox.claim()] == ids[8:]  # without waiting for the other's commit
    assert held == ids[:8]


# --- complete --------------------------------------------------------------------------------------------


def test_sent_is_final_and_leaves_an_attempt(outbox: Outbox) -> None:
    message = lease_one(outbox)
    outcome = finished_outcome(message, provider_id="<1@x>", code="250 2.0.0", response="queued")
    assert outbox.complete(outcome) == {message.id: "sent"}
    row = outbox.message(message.id)
    assert (row["state"], row["attempt"], row["provider_id"], row["lease_token"], row["dispatcher"]) == (
        "sent",
        1,
        "<1@x>",
        None,
        None,
    )
    assert row["finalized_at"] is not None
    [attempt] = outbox.attempts(message.id)
    assert (attempt["number"], attempt["outcome"], attempt["code"], attempt["response"], attempt["dag_run"]) == (
        1, "sent", "250 2.0.0", "queued", "dag/run",
    )  # fmt: skip


def test_a_retry_is_scheduled_and_counts(outbox: Outbox) -> None:
    message = lease_one(outbox)
    assert outbox.complete(failed_outcome(message, delay=90)) == {message.id: "scheduled"}
    row = outbox.message(message.id)
    assert (row["attempt"], row["error_class"], row["error"]) == (1, "network", "no route")
    assert (
        85 < outbox.value("SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM backline.message") <= 90
    )
    assert outbox.claim() == []
    outbox.make_due(message.id)
    assert outbox.run(outbox.store.promote()) == 1
    [again] = outbox.claim()
    assert (again.id, again.attempt) == (message.id, 1)
    outbox.complete(finished_outcome(again))
    numbers = [(row["number"], row["outcome"]) for row in outbox.attempts(message.id)]
    assert numbers == [(1, "scheduled"), (2, "sent")]


def test_promote_takes_what_came_due_first_and_no_more_than_told(outbox: Outbox) -> None:
    ids = [outbox.enqueue(due_at=LATER + timedelta(seconds=n)) for n in range(3)]
    assert outbox.run(outbox.store.promote()) == 0
    outbox.sql("UPDATE backline.message SET due_at = due_at - interval '2 h'")
    assert outbox.run(outbox.store.promote(2)) == 2
    assert [outbox.message(message_id)["state"] for message_id in ids] == ["pending", "pending", "scheduled"]


def test_a_retry_after_the_expiry_is_expired(outbox: Outbox) -> None:
    message = lease_one(outbox, expires_at=datetime.now(UTC) + timedelta(seconds=60))
    assert outbox.complete(failed_outcome(message, delay=3600)) == {message.id: "expired"}
    assert outbox.message(message.id)["finalized_at"] is not None


def test_an_old_lease_token_completes_nothing(outbox: Outbox) -> None:
    message = lease_one(outbox)
    outbox.expire_leases(message.id)
    assert outbox.rescue() == 1
    [taken] = outbox.claim_rescued()
    before = outbox.message(message.id)
    for late in (finished_outcome(message), failed_outcome(message), failed_outcome(message, dead=True)):
        assert outbox.complete(late) == {}
    assert outbox.run(outbox.store.return_unsent([message])) == 0
    assert outbox.run(outbox.store.defer([(message, 5.0)])) == 0
    assert outbox.run(outbox.store.renew([message], 60.0)) == 0
    assert outbox.message(message.id) == before
    assert outbox.value("SELECT count(*) FROM backline.attempt WHERE outcome <> 'rescued'") == 0
    assert outbox.complete(finished_outcome(taken)) == {message.id: "sent"}


def test_completing_twice_counts_once(outbox: Outbox) -> None:
    message = lease_one(outbox)
    assert outbox.complete(finished_outcome(message)) == {message.id: "sent"}
    assert outbox.complete(finished_outcome(message)) == {}
    assert outbox.message(message.id)["attempt"] == 1
    assert outbox.value("SELECT count(*) FROM backline.attempt") == 1


def test_of_a_batch_only_what_is_still_ours_is_completed(outbox: Outbox) -> None:
    ids = outbox.enqueue_many(3)
    messages = outbox.claim()
    outbox.expire_leases(ids[1])
    outbox.rescue()
    assert outbox.complete(*map(finished_outcome, messages)) == {ids[0]: "sent", ids[2]: "sent"}
    assert outbox.state_counts() == {"sent": 2, "pending": 1}


def test_the_response_is_cut_to_4_kb(outbox: Outbox) -> None:
    outbox.complete(finished_outcome(lease_one(outbox), response="ß" * 10_000))
    assert outbox.value("SELECT char_length(response) FROM backline.attempt") == 4096


def test_renewing_extends_the_lease(outbox: Outbox) -> None:
    message = lease_one(outbox)
    outbox.expire_leases(message.id)
    until = message.lease_deadline
    assert outbox.run(outbox.store.renew([message], 30.0)) == 1
    assert message.lease_deadline != until
    assert outbox.rescue() == 0


def test_returning_a_message_uses_no_attempt(outbox: Outbox) -> None:
    message = lease_one(outbox)
    assert outbox.run(outbox.store.return_unsent([message])) == 1
    row = outbox.message(message.id)
    assert (row["state"], row["attempt"], row["rescues"], row["lease_token"]) == ("pending", 0, 0, None)


# --- rescue ---------------------------------------------------------------------------------------------------


def test_a_valid_lease_is_not_rescued(outbox: Outbox) -> None:
    dispatcher = outbox.dispatcher()
    outbox.enqueue()
    outbox.claim(dispatcher=dispatcher)
    lease_one(outbox)
    assert outbox.rescue() == 0


@pytest.mark.parametrize("death", ["stopped heartbeat", "row deleted"])
def test_a_dead_dispatchers_messages_are_rescued_at_once(outbox: Outbox, death: str) -> None:
    dispatcher, other = outbox.dispatcher(), outbox.dispatcher()
    mine, others = outbox.enqueue_many(2)
    outbox.claim(1, dispatcher)
    outbox.claim(1, other)
    if death == "row deleted":
        outbox.run(outbox.store.unregister(dispatcher))
    else:
        outbox.stop_heartbeat(dispatcher)
    assert outbox.rescue() == 1
    row = outbox.message(mine)
    assert (row["state"], row["rescues"], row["attempt"], row["dispatcher"]) == ("pending", 1, 0, None)
    assert outbox.message(others)["state"] == "leased"
    assert [row["id"] for row in outbox.sql("SELECT id FROM backline.dispatcher")] == [other]
    assert outbox.run(outbox.store.heartbeat(dispatcher, handing_over=False)) is None


def test_rescued_messages_come_one_at_a_time(outbox: Outbox) -> None:
    ids = outbox.enqueue_many(4)
    outbox.claim(3)
    outbox.expire_leases(*ids[:3])
    assert outbox.rescue() == 3
    assert [message.id for message in outbox.claim()] == [ids[3]]
    assert [[message.id for message in outbox.claim_rescued()] for _ in range(4)] == [[ids[0]], [ids[1]], [ids[2]], []]


def test_a_message_that_kills_its_dispatchers_dies_alone(outbox: Outbox) -> None:
    poison, *others = outbox.enqueue_many(5)
    outbox.claim()
    outbox.expire_leases(poison, *others)
    outbox.rescue()
    for round_number in range(1, MAX_RESCUES + 2):
        while messages := outbox.claim_rescued():
            if messages[0].id == poison:
                outbox.expire_leases(poison)
                break
            outbox.complete(finished_outcome(messages[0]))
        state = outbox.message(poison)["state"]
        if state == "pending":
            pytest.fail(f"not claimed in round {round_number}")
        assert outbox.rescue() == (1 if state == "leased" else 0)
        if outbox.message(poison)["state"] == "dead":
            break
    row = outbox.message(poison)
    assert (row["state"], row["rescues"], row["attempt"]) == ("dead", MAX_RESCUES + 1, 0)
    assert "which may be the cause" in row["error"]
    while messages := outbox.claim_rescued():
        outbox.complete(finished_outcome(messages[0]))
    assert outbox.state_counts() == {"dead": 1, "sent": 4}


# --- cancel, expire, retry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("due_at", [None, LATER])
def test_a_waiting_message_is_cancelled_at_once(outbox: Outbox, due_at: datetime | None) -> None:
    made = outbox.enqueue(due_at=due_at)
    assert outbox.cancel(made) == "cancelled"
    assert outbox.message(made)["finalized_at"] is not None
    assert outbox.cancel(made) is None


def rescue(outbox: Outbox, message: LeasedMessage) -> None:
    outbox.expire_leases(message.id)
    outbox.rescue()


HANDS: dict[str, Callable[[Outbox, LeasedMessage], object]] = {
    "retry": lambda outbox, message: outbox.complete(failed_outcome(message)),
    "return": lambda outbox, message: outbox.run(outbox.store.return_unsent([message])),
    "rescue": rescue,
    "deferred": lambda outbox, message: outbox.run(outbox.store.defer([(message, 5.0)])),
}


@pytest.mark.parametrize("hand", HANDS)
def test_a_leased_message_is_cancelled_when_it_is_returned(outbox: Outbox, hand: str) -> None:
    dispatcher = outbox.dispatcher()
    made = outbox.enqueue()
    [message] = outbox.claim(dispatcher=dispatcher)
    assert outbox.cancel(made) == "leased"
    assert outbox.run(outbox.store.cancel_requests(dispatcher)) == {made}
    HANDS[hand](outbox, message)
    assert outbox.message(made)["state"] == "cancelled"


def test_a_message_that_was_sent_before_it_could_be_cancelled_is_sent(outbox: Outbox) -> None:
    message = lease_one(outbox)
    outbox.cancel(message.id)
    assert outbox.complete(finished_outcome(message)) == {message.id: "sent"}


def test_a_cancelled_message_is_not_leased_by_its_run_again(outbox: Outbox) -> None:
    message = lease_one(outbox)
    outbox.cancel(message.id)
    outbox.expire_leases(message.id)
    assert outbox.run_statement("message_lease_one", id=message.id, token=new_token(), lease_seconds=60) == []


def test_waiting_messages_expire(outbox: Outbox) -> None:
    due, later, kept = (
        outbox.enqueue(expires_at=LATER + timedelta(days=1), due_at=due_at) for due_at in (None, LATER, None)
    )
    outbox.sql(
        "UPDATE backline.message SET expires_at = clock_timestamp() - interval '1 s' WHERE id = ANY (%s)", [due, later]
    )
    assert outbox.run(outbox.store.expire()) == 2
    assert [outbox.message(message_id)["state"] for message_id in (due, later, kept)] == [
        "expired",
        "expired",
        "pending",
    ]


def test_a_dead_message_is_retried_under_its_own_id_with_all_attempts(outbox: Outbox) -> None:
    message = lease_one(outbox)
    assert not outbox.retry(message.id)
    outbox.complete(failed_outcome(message, dead=True))
    assert outbox.retry(message.id)
    [again] = outbox.claim()
    assert (again.id, again.attempt, again.max_attempts) == (message.id, 1, 7)
    outbox.complete(finished_outcome(again))
    assert not outbox.retry(message.id)


def test_a_dead_message_that_expired_or_had_secrets_is_not_retried(outbox: Outbox) -> None:
    message = lease_one(outbox, expires_at=LATER)
    outbox.complete(failed_outcome(message, dead=True))
    outbox.sql("UPDATE backline.message SET expires_at = clock_timestamp() - interval '1 s'")
    assert not outbox.retry(message.id)
    secret = secret_message(outbox)
    outbox.complete(failed_outcome(secret, dead=True))
    assert not outbox.retry(secret.id)


# --- secrets ------------------------------------------------------------------------------------------------------


def secret_message(outbox: Outbox, **options: Any) -> LeasedMessage:
    outbox.add_type("otp", secret=["code"], name=(str, ...))
    encrypted = Encryptor([Fernet.generate_key().decode()]).encrypt("123456")
    return lease_one(outbox, type="otp", payload=json.dumps({"name": "Ann", "code": encrypted}), **options)


def expire(outbox: Outbox, message: LeasedMessage) -> None:
    outbox.run(outbox.store.return_unsent([message]))
    outbox.sql("UPDATE backline.message SET expires_at = clock_timestamp() - interval '1 s'")
    outbox.run(outbox.store.expire())


def cancel(outbox: Outbox, message: LeasedMessage) -> None:
    outbox.run(outbox.store.return_unsent([message]))
    outbox.cancel(message.id)


def cancel_held(outbox: Outbox, message: LeasedMessage) -> None:
    outbox.cancel(message.id)
    outbox.run(outbox.store.return_unsent([message]))


def rescue_until_dead(outbox: Outbox, message: LeasedMessage) -> None:
    outbox.expire_leases(message.id)
    outbox.rescue(max_rescues=0)


ENDS: dict[str, tuple[Callable[[Outbox, LeasedMessage], object], str]] = {
    "sent": (lambda outbox, message: outbox.complete(finished_outcome(message, response="123456")), "sent"),
    "dead": (lambda outbox, message: outbox.complete(failed_outcome(message, dead=True)), "dead"),
    "expired": (expire, "expired"),
    "expired at retry": (lambda outbox, message: outbox.complete(failed_outcome(message, delay=10**6)), "expired"),
    "cancelled": (cancel, "cancelled"),
    "cancelled while held": (cancel_held, "cancelled"),
    "killed": (rescue_until_dead, "dead"),
}


@pytest.mark.parametrize("end", ENDS)
def test_secrets_are_erased_at_every_end(outbox: Outbox, end: str) -> None:
    message = secret_message(outbox, expires_at=LATER)
    act, state = ENDS[end]
    act(outbox, message)
    row = outbox.message(message.id)
    assert (row["state"], row["payload"]) == (state, {"name": "Ann"})
    assert outbox.value("SELECT count(response) FROM backline.attempt WHERE outcome <> 'rescued'") == 0


def test_secrets_stay_until_the_message_is_final(outbox: Outbox) -> None:
    message = secret_message(outbox)
    outbox.complete(failed_outcome(message))
    assert set(outbox.message(message.id)["payload"]) == {"name", "code"}


# --- dispatchers ---------------------------------------------------------------------------------------------------


def test_a_lane_has_so_many_slots(outbox: Outbox) -> None:
    first, second = outbox.dispatcher(slots=2), outbox.dispatcher(slots=2)
    assert outbox.run(outbox.store.register("email.normal", 2, None)) is None
    assert outbox.run(outbox.store.register("email.bulk", 1, None)) is not None
    outbox.run(outbox.store.unregister(first))
    assert outbox.dispatcher(slots=2) > second


def test_a_dispatcher_that_hands_over_frees_its_slot_and_learns_of_its_successor(outbox: Outbox) -> None:
    old = outbox.dispatcher(slots=1)
    assert outbox.run(outbox.store.heartbeat(old, handing_over=True)) == (False, False)
    registered = outbox.run(outbox.store.register("email.normal", 1, "dag/run"))
    assert registered is not None
    assert registered[1]
    assert outbox.run(outbox.store.heartbeat(old, handing_over=False)) == (False, True)
    assert outbox.run(outbox.store.heartbeat(registered[0], handing_over=False)) == (False, False)


def test_all_are_asked_to_stop(outbox: Outbox) -> None:
    dispatchers = [outbox.dispatcher(), outbox.dispatcher("email.bulk")]
    outbox.run_statement("dispatcher_stop_all")
    assert [outbox.run(outbox.store.heartbeat(d, handing_over=False)) for d in dispatchers] == [(True, False)] * 2


def test_lane_status_shows_backlog_head_and_dispatchers(outbox: Outbox) -> None:
    low, high = outbox.enqueue(priority=2), outbox.enqueue(priority=9)
    outbox.enqueue(due_at=LATER)
    rescued = outbox.enqueue(type="urgent_email", payload='{"context": {}}')
    outbox.claim(lane="email.urgent")
    outbox.expire_leases(rescued)
    outbox.rescue()
    alive, dead, old = (outbox.dispatcher() for _ in range(3))
    outbox.stop_heartbeat(dead)
    outbox.run(outbox.store.heartbeat(old, handing_over=True))
    rows = {
        row.lane: row
        for row in outbox.run(
            outbox.store.lane_status(dict.fromkeys(["email.normal", "email.urgent", "email.bulk"], 100), 10.0)
        )
    }
    assert rows["email.normal"].head_age_seconds >= 0
    assert rows["email.normal"] == LaneStatus("email.normal", 2, high, rows["email.normal"].head_age_seconds, 1, 1)
    assert rows["email.urgent"].pending == 1
    assert rows["email.bulk"].pending == rows["email.bulk"].live_dispatchers == 0
    [capped] = outbox.run(outbox.store.lane_status({"email.normal": 1}, 10.0))
    assert (capped.pending, capped.head_message_id) == (1, high)
    assert alive
    assert low
