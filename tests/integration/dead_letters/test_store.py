"""Recording: one row for each failure, however often it is reported."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from backline.dead_letters.failures import FROM_LOG, INFERRED, REPORTED
from backline.dead_letters.store import DeadLetterStore, Filter
from backline.errors import FailureClass, InvalidInput
from tests.integration.dead_letters.support import (
    all_dead_letters,
    make_dead_message,
    make_failure,
    make_import_failure,
    record_failure,
    seconds_after_now,
)
from tests.integration.outbox.support import Outbox, finished_outcome


def test_every_dead_message_is_a_dead_letter(outbox: Outbox, store: DeadLetterStore) -> None:
    message_id = make_dead_message(outbox)
    [letter] = all_dead_letters(store)
    assert (letter["kind"], letter["name"], letter["message_id"]) == ("message", "email", message_id)
    assert (letter["class"], letter["cause"], letter["attempts"], letter["state"]) == (
        "rejected",
        "550 no such user",
        1,
        "open",
    )
    shown = store.get(letter["id"])
    assert (shown["recipient"], shown["message_state"]) == ("ann@example.com", "dead")


def test_a_message_that_kills_its_dispatchers_is_a_dead_letter(outbox: Outbox, store: DeadLetterStore) -> None:
    message_id = outbox.enqueue()
    outbox.claim()
    outbox.expire_leases(message_id)
    outbox.rescue(0)
    [letter] = all_dead_letters(store)
    assert letter["message_id"] == message_id
    assert "dispatcher died" in letter["cause"]


def test_many_dead_messages_of_one_statement_are_as_many_dead_letters(outbox: Outbox, store: DeadLetterStore) -> None:
    ids = outbox.enqueue_many(50)
    outbox.complete(*(finished_outcome(message, "dead" if message.id % 2 else "sent") for message in outbox.claim()))
    assert sorted(letter["message_id"] for letter in all_dead_letters(store)) == [
        number for number in ids if number % 2
    ]


def test_a_dead_letter_of_a_sending_run_lacks_what_its_conf_must_not_hold(store: DeadLetterStore) -> None:
    reference = {"$ref": "password_reset_token", "id": 17}
    confs = {
        "send_password_reset": ({"token": "s3cret", "tokn": "s3cret"}, {"token": "[removed]", "tokn": "[removed]"}),
        "send_account_verification": (
            {"to": "a@b.example", "token": reference},
            {"to": "a@b.example", "token": reference},
        ),
        "send_order_reminders": ({"days": 1}, {"days": 1}),
    }
    for dag_id, (conf, _) in confs.items():
        record_failure(store, dag_id=dag_id, conf=conf)
    assert {letter["name"]: letter["conf"] for letter in all_dead_letters(store)} == {
        dag_id: kept for dag_id, (_, kept) in confs.items()
    }


def test_no_trigger_runs_for_each_updated_row(outbox: Outbox) -> None:
    """It would make every update, claims included, fetch the row's old version."""
    per_row = outbox.sql(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'backline.message'::regclass AND tgtype & 1 = 1 AND tgtype & 16 = 16"
    )
    assert per_row == []


@pytest.mark.parametrize("state", ["sent", "suppressed", "expired"])
def test_other_final_states_are_no_dead_letters(outbox: Outbox, store: DeadLetterStore, state: str) -> None:
    outbox.enqueue()
    [message] = outbox.claim()
    outbox.complete(finished_outcome(message, state))
    assert all_dead_letters(store) == []


def test_a_retried_message_closes_its_dead_letter_and_a_second_failure_is_a_second_one(
    outbox: Outbox, store: DeadLetterStore
) -> None:
    message_id = make_dead_message(outbox)
    outbox.run_statement("message_retry", id=message_id)
    [first] = all_dead_letters(store)
    assert (first["state"], first["replay_ref"]) == ("replayed", f"message {message_id}")
    [message] = outbox.claim()
    outbox.complete(finished_outcome(message, "dead", error_class="network", error="again"))
    second, first = all_dead_letters(store)
    assert (second["state"], second["cause"], first["state"]) == ("open", "again", "replayed")


def test_a_job_is_one_dead_letter_however_often_it_is_reported(store: DeadLetterStore) -> None:
    first = record_failure(store)
    assert [record_failure(store) for _ in range(3)] == [first] * 3
    assert len(all_dead_letters(store)) == 1


def test_each_mapped_task_has_a_dead_letter(store: DeadLetterStore) -> None:
    assert len({record_failure(store, map_index=index) for index in range(3)}) == 3


def test_simultaneous_reports_create_one_row(database: str, store: DeadLetterStore) -> None:
    barrier = threading.Barrier(8)

    def report() -> None:
        with DeadLetterStore.open(database) as mine:
            barrier.wait()
            mine.record(make_failure())

    threads = [threading.Thread(target=report) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(all_dead_letters(store)) == 1


@pytest.mark.parametrize(
    "order", [(INFERRED, REPORTED), (REPORTED, INFERRED), (FROM_LOG, REPORTED), (REPORTED, FROM_LOG)]
)
def test_the_most_certain_cause_is_kept_in_any_order(store: DeadLetterStore, order: tuple[int, int]) -> None:
    for certainty in order:
        record_failure(store, certainty=certainty, cause=f"certainty {certainty}", failure_class=FailureClass.TIMEOUT)
    [letter] = all_dead_letters(store)
    assert letter["cause"] == f"certainty {REPORTED}"


def test_a_task_that_fails_again_after_a_clear_reopens_its_dead_letter(store: DeadLetterStore) -> None:
    letter_id = record_failure(store, attempts=1)
    store.close(letter_id, "discarded", by="ann", reason="not needed", replay_ref=None)
    record_failure(store, attempts=1, certainty=INFERRED, cause="reported late")
    assert store.get(letter_id)["state"] == "discarded"
    record_failure(store, attempts=2, certainty=INFERRED, cause="once more")
    again = store.get(letter_id)
    assert (again["state"], again["closed_at"], again["alerted_at"], again["cause"]) == (
        "open",
        None,
        None,
        "once more",
    )


def test_a_run_that_fails_again_reopens_its_dead_letter(store: DeadLetterStore) -> None:
    whole = {"task_id": "", "attempts": 1}
    letter_id = record_failure(store, **whole)
    store.close(letter_id, "replayed", by="ann", reason=None, replay_ref="run job/r2")
    record_failure(store, **whole)
    assert store.get(letter_id)["state"] == "replayed"
    record_failure(store, **whole, failed_at=seconds_after_now(60))
    assert store.get(letter_id)["state"] == "open"


def test_a_failed_send_run_is_recorded_as_its_message_if_that_is_in_the_outbox(
    outbox: Outbox, store: DeadLetterStore
) -> None:
    make_dead_message(outbox, idempotency_key="send_email/r1")
    assert store.record(make_failure(dag_id="send_email", run_id="r1", task_id="send")) is None
    assert [letter["kind"] for letter in all_dead_letters(store)] == ["message"]
    # This run failed before it enqueued its message.
    assert store.record(make_failure(dag_id="send_email", run_id="r2", task_id="send")) is not None


def test_an_import_error_is_one_dead_letter_until_its_file_imports(store: DeadLetterStore) -> None:
    error = make_import_failure()
    first = store.record_import(error)
    assert store.record_import(error) == first
    assert store.record_import(make_import_failure("SyntaxError: y")) != first
    assert store.resolve_imports([make_import_failure("SyntaxError: y")]) == 1
    assert store.get(first)["state"] == "resolved"
    assert store.record_import(error) == first
    again = store.get(first)
    assert (again["state"], again["attempts"], again["alerted_at"]) == ("open", 2, None)


def test_a_discarded_import_error_stays_discarded(store: DeadLetterStore) -> None:
    letter_id = store.record_import(make_import_failure())
    store.close(letter_id, "discarded", by="ann", reason="going away", replay_ref=None)
    store.record_import(make_import_failure())
    assert store.get(letter_id)["state"] == "discarded"


def test_the_filters(store: DeadLetterStore, outbox: Outbox) -> None:
    job, message = record_failure(store), make_dead_message(outbox)
    store.close(job, "discarded", by="ann", reason="x", replay_ref=None)

    def ids(**wanted: str) -> list[int]:
        return [row["id"] for row in store.iterate(Filter(**wanted))]  # type: ignore[arg-type]

    assert ids(state="discarded") == ids(kind="job") == ids(name="job") == ids(failure_class="network") == [job]
    assert [store.get(letter)["message_id"] for letter in ids(state="open")] == [message]
    assert list(store.iterate(Filter(since=datetime(2100, 1, 1, tzinfo=UTC)))) == []
    for field, value in (("state", "shut"), ("kind", "jobs")):
        with pytest.raises(InvalidInput) as refused:
            ids(**{field: value})
        assert refused.value.field == field


def test_pages_follow_one_another(store: DeadLetterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [record_failure(store, run_id=f"r{number}") for number in range(7)]
    monkeypatch.setattr("backline.dead_letters.store.PAGE_SIZE", 3)
    assert [row["id"] for row in store.iterate(Filter())] == made[::-1]
    assert [row["id"] for row in store.iterate(Filter(), 5)] == made[::-1][:5]


def test_groups_count_equal_failures(store: DeadLetterStore) -> None:
    for number in range(3):
        record_failure(store, run_id=f"r{number}", cause=f"cause {number}", failed_at=seconds_after_now(number))
    record_failure(store, task_id="other")
    first, second = store.failure_groups(datetime(2020, 1, 1, tzinfo=UTC))
    assert (first["failures"], first["open"], first["task_id"], first["last_cause"]) == (3, 3, "work", "cause 2")
    assert (second["failures"], second["task_id"]) == (1, "other")


def test_an_unknown_id_is_named(store: DeadLetterStore) -> None:
    with pytest.raises(InvalidInput, match="there is no dead letter 4711"):
        store.get(4711)


@pytest.mark.parametrize("value", [float("nan"), "a \0", "half \ud83d"])
def test_a_failure_is_recorded_even_if_its_conf_cannot_be_stored(store: DeadLetterStore, value: object) -> None:
    failure = replace(make_failure(), conf={"key": value}, cause="with \0 and \ud83d")
    assert store.record(failure) is not None
    [letter] = all_dead_letters(store)
    assert (letter["conf"], letter["cause"]) == ({}, "with \\x00 and \\ud83d")
