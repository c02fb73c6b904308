"""The reconciler: everything that failed is found, once."""

from __future__ import annotations

import pytest

from backline.dead_letters.reconcile_dead_letters import OVERLAP, reconcile_dead_letters, record_failed_run
from backline.dead_letters.runs import FailedRun
from backline.dead_letters.store import DeadLetterStore
from backline.jobs.watchdog import HARD_LIMIT, MEMORY_LIMIT
from tests.integration.dead_letters.support import (
    NOW,
    FakeAirflow,
    all_dead_letters,
    make_import_failure,
    record_failure,
    seconds_after_now,
)
from tests.integration.outbox.support import Outbox


def test_failed_tasks_are_written_once(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    airflow.fail("a", conf={"days": 3})
    airflow.fail("b", map_index=2)
    assert reconcile_dead_letters(letters, airflow, NOW).recorded == 2
    assert reconcile_dead_letters(letters, airflow, NOW).recorded == 0
    second, first = all_dead_letters(letters)
    assert (first["task_id"], first["conf"], first["log_url"]) == ("a", {"days": 3}, "http://airflow.test/job/r1/a")
    assert second["map_index"] == 2


def test_what_a_callback_wrote_stands(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    record_failure(letters, tries=1, cause="told by the callback")
    airflow.fail("work", tries=1)
    assert reconcile_dead_letters(letters, airflow, NOW).recorded == 0
    [letter] = all_dead_letters(letters)
    assert letter["cause"] == "told by the callback"


def test_a_run_without_a_failed_task_is_one_letter_of_its_own(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    airflow.runs.append(FailedRun("job", "r1", {"days": 2}, NOW))
    assert [reconcile_dead_letters(letters, airflow, NOW).recorded for _ in range(2)] == [1, 0]
    [letter] = all_dead_letters(letters)
    assert (letter["task_id"], letter["map_index"], letter["conf"]) == ("", -1, {"days": 2})


def test_a_task_that_failed_long_before_its_run_did_is_the_letter(
    letters: DeadLetterStore, airflow: FakeAirflow
) -> None:
    airflow.fail("early", at=seconds_after_now(-7200))
    airflow.runs = [FailedRun("job", "r1", {}, NOW)]
    reconcile_dead_letters(letters, airflow, NOW)
    [letter] = all_dead_letters(letters)
    assert letter["task_id"] == "early"


@pytest.mark.parametrize(
    ("log", "failure_class", "cause"),
    [
        ([{"event": f"{HARD_LIMIT} of 600 s is over; the task is killed"}, {"event": "bye"}], "timeout", HARD_LIMIT),
        ([{"event": f"{MEMORY_LIMIT} of 64 MiB is exceeded: 70 MiB"}], "resource", MEMORY_LIMIT),
        (
            [{"event": "x", "error_detail": [{"exc_type": "NetworkFailure", "exc_value": "no\nroute"}]}],
            "network",
            "no route",
        ),
        ([{"event": "nothing said"}], "unknown", "ended without a word"),
    ],
)
def test_the_cause_is_read_from_the_log(
    letters: DeadLetterStore, airflow: FakeAirflow, log: list[dict[str, object]], failure_class: str, cause: str
) -> None:
    airflow.fail("work")
    airflow.logs["work"] = log
    reconcile_dead_letters(letters, airflow, NOW)
    [letter] = all_dead_letters(letters)
    assert letter["class"] == failure_class
    assert cause in letter["cause"]


def test_who_marked_it_is_the_cause(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    airflow.fail("work")
    airflow.marked["r1"] = "ann"
    reconcile_dead_letters(letters, airflow, NOW)
    [letter] = all_dead_letters(letters)
    assert letter["cause"] == "marked failed by hand, by ann"


def test_airflows_reason_is_kept_when_the_reconciler_comes_after(
    letters: DeadLetterStore, airflow: FakeAirflow
) -> None:
    run = FailedRun("job", "r1", {}, NOW)
    airflow.runs.append(run)
    assert record_failed_run(letters, airflow, run, "timed_out") == 1
    reconcile_dead_letters(letters, airflow, NOW)
    [letter] = all_dead_letters(letters)
    assert (letter["class"], letter["cause"]) == ("timeout", "the run took longer than its dagrun_timeout")


def test_it_reads_on_from_its_last_look_with_an_overlap(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    reconcile_dead_letters(letters, airflow, NOW)
    reconcile_dead_letters(letters, airflow, seconds_after_now(300))
    assert airflow.since[1] == NOW - OVERLAP
    reconcile_dead_letters(letters, airflow, seconds_after_now(-300))
    reconcile_dead_letters(letters, airflow, seconds_after_now(600))
    assert airflow.since[3] == seconds_after_now(300) - OVERLAP, "the cursor never goes back"


def test_when_airflow_goes_away_midway_the_next_look_finds_all(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    airflow.fail("work")

    def gone() -> list[object]:
        raise ConnectionError

    good, airflow.import_errors = airflow.import_errors, gone  # type: ignore[method-assign,assignment]
    with pytest.raises(ConnectionError):
        reconcile_dead_letters(letters, airflow, seconds_after_now(3600))
    airflow.import_errors = good  # type: ignore[method-assign]
    airflow.fail("other", run_id="r2", at=seconds_after_now(10))
    reconcile_dead_letters(letters, airflow, seconds_after_now(3600))
    assert {letter["task_id"] for letter in all_dead_letters(letters)} == {"work", "other"}


def test_import_errors_come_and_go(letters: DeadLetterStore, airflow: FakeAirflow) -> None:
    airflow.errors = [make_import_failure()]
    assert reconcile_dead_letters(letters, airflow, NOW).import_errors == 1
    [letter] = all_dead_letters(letters)
    assert (letter["kind"], letter["name"], letter["class"]) == ("import", "jobs.py", "validation")
    assert "SyntaxError: x" in letter["cause"]
    airflow.errors = []
    assert reconcile_dead_letters(letters, airflow, NOW).resolved == 1
    assert all_dead_letters(letters)[0]["state"] == "resolved"


def test_dead_messages_that_a_hand_made_are_found(
    outbox: Outbox, letters: DeadLetterStore, airflow: FakeAirflow
) -> None:
    message_id = outbox.enqueue()
    outbox.sql(
        "UPDATE backline.message SET state = 'dead', finalized_at = now() - interval '1 h' WHERE id = %s", message_id
    )
    assert all_dead_letters(letters) == []
    assert [reconcile_dead_letters(letters, airflow, NOW).recorded for _ in range(2)] == [1, 0]
    [letter] = all_dead_letters(letters)
    assert letter["message_id"] == message_id
