"""Replay and discard: each letter once, by whom and why written down, and nothing half done."""

from __future__ import annotations

import threading

import pytest

from backline.dead_letters.actions import BulkReport, discard, replay, run_bulk
from backline.dead_letters.store import DeadLetterStore, Filter
from backline.errors import InvalidInput, NetworkFailure
from tests.integration.dead_letters.support import (
    FakeAirflow,
    all_dead_letters,
    make_dead_message,
    make_import_failure,
    record_failure,
)
from tests.integration.outbox.support import PAYLOAD, Outbox


def test_a_job_starts_again_with_the_same_conf(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    letter_id = record_failure(letters, conf={"days": 3})
    other = record_failure(letters, task_id="other")
    done = replay(letters, airflow, letter_id, by="ann", reason="mended")
    [(run, conf)] = airflow.started.items()
    assert (done.reference, conf) == (f"run {run}", {"days": 3})
    assert airflow.notes[run] == f"Replay of dead letter {letter_id}: job/r1, by ann (mended)"
    for each in (letter_id, other):  # the run is replayed as a whole
        row = letters.get(each)
        assert (row["state"], row["closed_by"], row["reason"], row["replay_ref"]) == (
            "replayed",
            "ann",
            "mended",
            done.reference,
        )


def test_a_job_starts_again_edited(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    letter_id = record_failure(letters, conf={"days": 3})
    with pytest.raises(InvalidInput, match=r"edited\.day: job has no such parameter; it has: days"):
        replay(letters, airflow, letter_id, by="ann", edited={"day": 1})
    with pytest.raises(InvalidInput, match="conf: days is not a number"):
        replay(letters, airflow, letter_id, by="ann", edited={"days": "many"})
    assert (airflow.started, letters.get(letter_id)["state"]) == ({}, "open")
    replay(letters, airflow, letter_id, by="ann", edited={"days": 1})
    assert list(airflow.started.values()) == [{"days": 1}]


def test_when_airflow_is_away_the_letter_stays_open(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    letter_id = record_failure(letters)
    airflow.unavailable = True
    with pytest.raises(NetworkFailure):
        replay(letters, airflow, letter_id, by="ann")
    assert letters.get(letter_id)["state"] == "open"


def test_two_at_once_start_one_run(database: str, letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    letter_id = record_failure(letters)
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


def test_a_message_is_revived_under_its_own_id(outbox: Outbox, letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    message_id = make_dead_message(outbox)
    [letter] = all_dead_letters(letters)
    assert replay(letters, airflow, letter["id"], by="ann", reason="mended").reference == f"message {message_id}"
    row = letters.get(letter["id"])
    assert (row["state"], row["closed_by"], row["reason"], row["message_state"]) == (
        "replayed",
        "ann",
        "mended",
        "pending",
    )


def test_a_message_goes_out_edited_as_a_new_one(outbox: Outbox, letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    message_id = make_dead_message(outbox, priority=9)
    [letter] = all_dead_letters(letters)
    with pytest.raises(InvalidInput, match="subject"):
        replay(letters, airflow, letter["id"], by="ann", edited={"text": "no subject"})
    done = replay(letters, airflow, letter["id"], by="ann", edited={**PAYLOAD, "subject": "Better"})
    new = outbox.message(int(done.reference.removeprefix("message ")))
    assert (new["replay_of"], new["payload"]["subject"], new["state"], new["priority"]) == (
        message_id,
        "Better",
        "pending",
        9,
    )
    assert outbox.message(message_id)["state"] == "dead"
    assert letters.get(letter["id"])["state"] == "replayed"


def test_a_message_that_has_expired_says_so(outbox: Outbox, letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    message_id = make_dead_message(outbox)
    outbox.sql("UPDATE backline.message SET expires_at = now() - interval '1 s' WHERE id = %s", message_id)
    [letter] = all_dead_letters(letters)
    with pytest.raises(InvalidInput, match="it has expired"):
        replay(letters, airflow, letter["id"], by="ann")
    assert letters.get(letter["id"])["state"] == "open"


def test_a_file_is_read_again(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    letter_id = letters.record_import(make_import_failure())
    with pytest.raises(InvalidInput, match="edited: "):
        replay(letters, airflow, letter_id, by="ann", edited={})
    assert replay(letters, airflow, letter_id, by="ann").reference == "file jobs.py"
    assert airflow.reparsed == ["jobs.py"]


def test_discarding_takes_a_reason(letters: DeadLetterStore) -> None:
    letter_id = record_failure(letters)
    with pytest.raises(InvalidInput, match="reason: say why"):
        discard(letters, letter_id, by="ann", reason=" ")
    discard(letters, letter_id, by="ann", reason="was a test")
    row = letters.get(letter_id)
    assert (row["state"], row["closed_by"], row["reason"]) == ("discarded", "ann", "was a test")
    with pytest.raises(InvalidInput, match="is discarded"):
        discard(letters, letter_id, by="ann", reason="again")


def test_in_bulk_a_dry_run_first(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    jobs = [record_failure(letters, run_id=f"r{number}") for number in range(3)]
    also = record_failure(letters, run_id="r0", task_id="second")
    other = record_failure(letters, dag_id="else")

    def act(letter_id: int) -> object:
        return replay(letters, airflow, letter_id, by="ann")

    shown = run_bulk(letters, Filter(name="job"), act, dry_run=True)
    assert (shown.dry_run, shown.matched, shown.done, airflow.started) == (True, 4, [*jobs, also], {})
    done = run_bulk(letters, Filter(name="job"), act, dry_run=False)
    assert done == BulkReport(False, 4, [*jobs, also], {})
    assert len(airflow.started) == 3, "one run for the two letters of r0"
    assert letters.get(other)["state"] == "open"
    with pytest.raises(InvalidInput, match="only open letters"):
        run_bulk(letters, Filter(state="discarded"), act, dry_run=True)


def test_in_bulk_one_that_fails_harms_no_other(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    bad = record_failure(letters, conf={"days": "many"})
    good = record_failure(letters, run_id="r2")
    done = run_bulk(letters, Filter(), lambda letter: replay(letters, airflow, letter, by="ann"), dry_run=False)
    assert done.done == [good]
    assert list(done.failed) == [bad]
