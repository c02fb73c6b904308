"""Recording: one row for each failure, whoever tells of it."""

from __future__ import annotations

import threading
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


def test_every_death_of_a_message_is_a_letter(outbox: Outbox, letters: DeadLetterStore) -> None:
    message_id = make_dead_message(outbox)
    [letter] = all_dead_letters(letters)
    assert (letter["kind"], letter["name"], letter["message_id"]) == ("message", "email", message_id)
    assert (letter["class"], letter["cause"], letter["attempts"], letter["state"]) == (
        "rejected",
        "550 no such user",
        1,
        "open",
    )
    shown = letters.get(letter["id"])
    assert (shown["recipient"], shown["message_state"]) == ("ann@example.com", "dead")


def test_a_message_that_its_dispatchers_die_of_is_a_letter(outbox: Outbox, letters: DeadLetterStore) -> None:
    message_id = outbox.enqueue()
    outbox.claim()
    outbox.expire_leases(message_id)
    outbox.rescue(0)
    [letter] = all_dead_letters(letters)
    assert letter["message_id"] == message_id
    assert "dispatcher died" in letter["cause"]


def test_many_deaths_in_one_statement_are_as_many_letters(outbox: Outbox, letters: DeadLetterStore) -> None:
    ids = outbox.enqueue_many(50)
    outbox.complete(*(finished_outcome(message, "dead" if message.id % 2 else "sent") for message in outbox.claim()))
    assert sorted(letter["message_id"] for letter in all_dead_letters(letters)) == [
        number for number in ids if number % 2
    ]


def test_a_claim_has_nothing_to_do_with_it(outbox: Outbox) -> None:
    """A trigger for each row would have every update fetch the row's old version."""
    per_row = outbox.sql(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'backline.message'::regclass AND tgtype & 1 = 1 AND tgtype & 16 = 16"
    )
    assert per_row == []


@pytest.mark.parametrize("state", ["sent", "suppressed", "expired"])
def test_other_ends_are_none(outbox: Outbox, letters: DeadLetterStore, state: str) -> None:
    outbox.enqueue()
    [message] = outbox.claim()
    outbox.complete(finished_outcome(message, state))
    assert all_dead_letters(letters) == []


def test_a_message_tried_again_closes_its_letter_and_a_second_death_is_a_second_one(
    outbox: Outbox, letters: DeadLetterStore
) -> None:
    message_id = make_dead_message(outbox)
    outbox.run_statement("message_retry", id=message_id)
    [first] = all_dead_letters(letters)
    assert (first["state"], first["replay_ref"]) == ("replayed", f"message {message_id}")
    [message] = outbox.claim()
    outbox.complete(finished_outcome(message, "dead", error_class="network", error="again"))
    second, first = all_dead_letters(letters)
    assert (second["state"], second["cause"], first["state"]) == ("open", "again", "replayed")


def test_a_job_is_one_letter_however_often_it_is_told(letters: DeadLetterStore) -> None:
    first = record_failure(letters)
    assert [record_failure(letters) for _ in range(3)] == [first] * 3
    assert len(all_dead_letters(letters)) == 1


def test_each_mapped_task_is_its_own(letters: DeadLetterStore) -> None:
    assert len({record_failure(letters, map_index=index) for index in range(3)}) == 3


def test_tellers_at_once_make_one_row(database: str, letters: DeadLetterStore) -> None:
    barrier = threading.Barrier(8)

    def tell() -> None:
        with DeadLetterStore.open(database) as mine:
            barrier.wait()
            mine.record(make_failure())

    tellers = [threading.Thread(target=tell) for _ in range(8)]
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join()
    assert len(all_dead_letters(letters)) == 1


@pytest.mark.parametrize(
    "order", [(INFERRED, REPORTED), (REPORTED, INFERRED), (FROM_LOG, REPORTED), (REPORTED, FROM_LOG)]
)
def test_what_knows_the_cause_better_wins_in_any_order(letters: DeadLetterStore, order: tuple[int, int]) -> None:
    for certainty in order:
        record_failure(letters, certainty=certainty, cause=f"certainty {certainty}", failure_class=FailureClass.TIMEOUT)
    [letter] = all_dead_letters(letters)
    assert letter["cause"] == f"certainty {REPORTED}"


def test_a_task_that_fails_again_after_a_clear_opens_its_letter_again(letters: DeadLetterStore) -> None:
    letter_id = record_failure(letters, tries=1)
    letters.close(letter_id, "discarded", by="ann", reason="not needed", replay_ref=None)
    record_failure(letters, tries=1, certainty=INFERRED, cause="told late")
    assert letters.get(letter_id)["state"] == "discarded"
    record_failure(letters, tries=2, certainty=INFERRED, cause="once more")
    again = letters.get(letter_id)
    assert (again["state"], again["closed_at"], again["alerted_at"], again["cause"]) == (
        "open",
        None,
        None,
        "once more",
    )


def test_a_run_that_fails_anew_opens_its_letter_again(letters: DeadLetterStore) -> None:
    whole = {"task_id": "", "attempts": 1}
    letter_id = record_failure(letters, **whole)
    letters.close(letter_id, "replayed", by="ann", reason=None, replay_ref="run job/r2")
    record_failure(letters, **whole)
    assert letters.get(letter_id)["state"] == "replayed"
    record_failure(letters, **whole, failed_at=seconds_after_now(60))
    assert letters.get(letter_id)["state"] == "open"


def test_a_send_run_whose_message_is_in_the_outbox_is_told_of_by_the_message(
    outbox: Outbox, letters: DeadLetterStore
) -> None:
    make_dead_message(outbox, idempotency_key="send_email/r1")
    assert letters.record(make_failure(dag_id="send_email", run_id="r1", task_id="send")) is None
    assert [letter["kind"] for letter in all_dead_letters(letters)] == ["message"]
    # This one never came to enqueue its message.
    assert letters.record(make_failure(dag_id="send_email", run_id="r2", task_id="send")) is not None


def test_an_import_error_is_one_letter_until_its_file_imports(letters: DeadLetterStore) -> None:
    error = make_import_failure()
    first = letters.record_import(error)
    assert letters.record_import(error) == first
    assert letters.record_import(make_import_failure("SyntaxError: y")) != first
    assert letters.resolve_imports([make_import_failure("SyntaxError: y")]) == 1
    assert letters.get(first)["state"] == "resolved"
    assert letters.record_import(error) == first
    again = letters.get(first)
    assert (again["state"], again["attempts"], again["alerted_at"]) == ("open", 2, None)


def test_a_discarded_import_error_stays_discarded(letters: DeadLetterStore) -> None:
    letter_id = letters.record_import(make_import_failure())
    letters.close(letter_id, "discarded", by="ann", reason="going away", replay_ref=None)
    letters.record_import(make_import_failure())
    assert letters.get(letter_id)["state"] == "discarded"


def test_the_filters(letters: DeadLetterStore, outbox: Outbox) -> None:
    job, message = record_failure(letters), make_dead_message(outbox)
    letters.close(job, "discarded", by="ann", reason="x", replay_ref=None)

    def ids(**wanted: str) -> list[int]:
        return [row["id"] for row in letters.iterate(Filter(**wanted))]  # type: ignore[arg-type]

    assert ids(state="discarded") == ids(kind="job") == ids(name="job") == ids(failure_class="network") == [job]
    assert [letters.get(letter)["message_id"] for letter in ids(state="open")] == [message]
    assert list(letters.iterate(Filter(since=datetime(2100, 1, 1, tzinfo=UTC)))) == []
    for field, value in (("state", "shut"), ("kind", "jobs")):
        with pytest.raises(InvalidInput) as refused:
            ids(**{field: value})
        assert refused.value.field == field


def test_pages_follow_one_another(letters: DeadLetterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [record_failure(letters, run_id=f"r{number}") for number in range(7)]
    monkeypatch.setattr("backline.dead_letters.store.PAGE", 3)
    assert [row["id"] for row in letters.iterate(Filter())] == made[::-1]
    assert [row["id"] for row in letters.iterate(Filter(), 5)] == made[::-1][:5]


def test_groups_count_what_failed_alike(letters: DeadLetterStore) -> None:
    for number in range(3):
        record_failure(letters, run_id=f"r{number}", cause=f"cause {number}", failed_at=seconds_after_now(number))
    record_failure(letters, task_id="other")
    first, second = letters.failure_groups(datetime(2020, 1, 1, tzinfo=UTC))
    assert (first["failures"], first["open"], first["task_id"], first["last_cause"]) == (3, 3, "work", "cause 2")
    assert (second["failures"], second["task_id"]) == (1, "other")


def test_a_letter_that_is_not_there_is_named(letters: DeadLetterStore) -> None:
    with pytest.raises(InvalidInput, match="there is no dead letter 4711"):
        letters.get(4711)
