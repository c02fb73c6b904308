"""Replay and discard: each dead letter once, with the user and the reason, and all or nothing."""

from __future__ import annotations

import threading

import pytest

from backline.dead_letters.actions import BulkReport, discard, discard_bulk, replay, replay_bulk
from backline.dead_letters.store import DeadLetterStore, Filter
from backline.errors import InvalidInput, NetworkFailure
from backline.outbox.submission import InvalidStateTransition
from tests.integration.dead_letters.support import (
    FakeAirflow,
    all_dead_letters,
    make_dead_message,
    make_import_failure,
    record_failure,
)
from tests.integration.outbox.support import PAYLOAD, Outbox


def test_a_job_starts_again_with_the_same_conf(store: DeadLetterStore, airflow: FakeAirflow) -> None:
    letter_id = record_failure(store, conf={"days": 3})
    other = record_failure(store, task_id="other")
    done = replay(store, airflow, letter_id, by="ann", reason="fixed")
    [(run, conf)] = airflow.started.items()
    assert (done.reference, conf) == (f"run {run}", {"days": 3})
    assert airflow.notes[run] == f"Replay of dead letter {letter_id}: job/r1, by ann (fixed)"
    for each in (letter_id, other):  # a run is replayed as a whole
        row = store.get(each)
        assert (row["state"], row["closed_by"], row["reason"], row["replay_ref"]) == (
            "replayed",
            "ann",
            "fixed",
            done.reference,
        )


def test_a_job_starts_again_edited(store: DeadLetterStore, airflow: FakeAirflow) -> None:
    letter_id = record_failure(store, conf={"days": 3})
    with pytest.raises(InvalidInput, match=r"edited\.day: job has no such parameter; it has: days"):
        replay(store, airflow, letter_id, by="ann", edited={"day": 1})
    with pytest.raises(InvalidInput, match="conf: days is not a number"):
        replay(store, airflow, letter_id, by="ann", edited={"days": "many"})
    assert (airflow.started, store.get(letter_id)["state"]) == ({}, "open")
    replay(store, airflow, letter_id, by="ann", edited={"days": 1})
    assert list(airflow.started.values()) == [{"days": 1}]


def test_if_airflow_is_not_available_the_dead_letter_stays_open(store: DeadLetterStore, airflow: FakeAirflow) -> None:
    letter_id = record_failure(store)
    airflow.unavailable = True
    with pytest.raises(NetworkFailure):
        replay(store, airflow, letter_id, by="ann")
    assert store.get(letter_id)["state"] == "open"


def test_simultaneous_replays_start_one_run(database: str, store: DeadLetterStore, airflow: FakeAirflow) -> None:
    letter_id = record_failure(store)
    refused = []

    def act() -> None:
        with DeadLetterStore.open(database) as mine:
            try:
                replay(mine, airflow, letter_id, by="ann")
            except InvalidInput as exc:
                refused.append(str(exc))

    both = [threading.Thread(target=act) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(airflow.started) == 1
    assert refused == [f"id: dead letter {letter_id} is replayed; only an open one can be replayed or discarded"]


def test_a_message_is_retried_under_its_own_id(outbox: Outbox, store: DeadLetterStore, airflow: FakeAirflow) -> None:
    message_id = make_dead_message(outbox)
    [letter] = all_dead_letters(store)
    assert replay(store, airflow, letter["id"], by="ann", reason="fixed").reference == f"message {message_id}"
    row = store.get(letter["id"])
    assert (row["state"], row["closed_by"], row["reason"], row["message_state"]) == (
        "replayed",
        "ann",
        "fixed",
        "pending",
    )


def test_an_edited_message_is_sent_as_a_new_one(outbox: Outbox, store: DeadLetterStore, airflow: FakeAirflow) -> None:
    message_id = make_dead_message(outbox, priority=9)
    [letter] = all_dead_letters(store)
    with pytest.raises(InvalidInput, match="subject"):
        replay(store, airflow, letter["id"], by="ann", edited={"text": "no subject"})
    done = replay(store, airflow, letter["id"], by="ann", edited={**PAYLOAD, "subject": "Better"})
    new = outbox.message(int(done.reference.removeprefix("message ")))
    assert (new["replay_of"], new["payload"]["subject"], new["state"], new["priority"]) == (
        message_id,
        "Better",
        "pending",
        9,
    )
    assert outbox.message(message_id)["state"] == "dead"
    assert store.get(letter["id"])["state"] == "replayed"


def test_a_message_that_has_expired_is_refused(outbox: Outbox, store: DeadLetterStore, airflow: FakeAirflow) -> None:
    message_id = make_dead_message(outbox)
    outbox.sql("UPDATE backline.message SET expires_at = now() - interval '1 s' WHERE id = %s", message_id)
    [letter] = all_dead_letters(store)
    with pytest.raises(InvalidStateTransition, match="expired at"):
        replay(store, airflow, letter["id"], by="ann")
    assert store.get(letter["id"])["state"] == "open"


def test_a_dag_file_is_parsed_again(store: DeadLetterStore, airflow: FakeAirflow) -> None:
    letter_id = store.record_import(make_import_failure())
    with pytest.raises(InvalidInput, match="edited: "):
        replay(store, airflow, letter_id, by="ann", edited={})
    assert replay(store, airflow, letter_id, by="ann").reference == "file jobs.py"
    assert airflow.reparsed == ["jobs.py"]


def test_discarding_needs_a_reason(store: DeadLetterStore) -> None:
    letter_id = record_failure(store)
    with pytest.raises(InvalidInput, match="reason: give the reason"):
        discard(store, letter_id, by="ann", reason=" ")
    discard(store, letter_id, by="ann", reason="was a test")
    row = store.get(letter_id)
    assert (row["state"], row["closed_by"], row["reason"]) == ("discarded", "ann", "was a test")
    with pytest.raises(InvalidInput, match="is discarded"):
        discard(store, letter_id, by="ann", reason="again")


def test_a_bulk_action_can_be_a_dry_run(store: DeadLetterStore, airflow: FakeAirflow) -> None:
    jobs = [record_failure(store, run_id=f"r{number}") for number in range(3)]
    also = record_failure(store, run_id="r0", task_id="second")
    other = record_failure(store, dag_id="else")

    shown = replay_bulk(store, airflow, Filter(name="job"), by="ann", dry_run=True)
    assert (shown.dry_run, shown.matched, shown.done, airflow.started) == (True, 4, [*jobs, also], {})
    done = replay_bulk(store, airflow, Filter(name="job"), by="ann", dry_run=False)
    assert done == BulkReport(False, 4, [*jobs, also], {})
    assert len(airflow.started) == 3, "one run for the two dead letters of r0"
    assert store.get(other)["state"] == "open"
    with pytest.raises(InvalidInput, match="only open dead letters"):
        replay_bulk(store, airflow, Filter(state="discarded"), by="ann", dry_run=True)
    assert discard_bulk(store, Filter(), by="ann", reason="was a test", dry_run=False).done == [other]


def test_a_failure_in_bulk_affects_only_its_own_dead_letter(store: DeadLetterStore, airflow: FakeAirflow) -> None:
    bad = record_failure(store, conf={"days": "many"})
    good = record_failure(store, run_id="r2")
    done = replay_bulk(store, airflow, Filter(), by="ann", dry_run=False)
    assert done.done == [good]
    assert list(done.failed) == [bad]
