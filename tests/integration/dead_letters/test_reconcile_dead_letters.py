"""The reconciler finds every failure once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from backline.dead_letters.reconcile_dead_letters import (
    OVERLAP,
    ReconcileReport,
    reconcile_dead_letters,
    record_failed_run,
)
from backline.dead_letters.runs import FailedRun
from backline.dead_letters.settings import DeadLetterSettings
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
from tests.integration.job_factory import create_job
from tests.integration.outbox.support import Outbox

Reconcile = Callable[..., ReconcileReport]


@pytest.fixture
def reconcile(database: str, airflow: FakeAirflow) -> Reconcile:
    """One run of the job."""

    def run(now: datetime = NOW) -> ReconcileReport:
        job = create_job(database, DeadLetterSettings(), now=now, runs=airflow)
        return ReconcileReport(**job.execute(reconcile_dead_letters))

    return run


def test_failed_tasks_are_recorded_once(store: DeadLetterStore, airflow: FakeAirflow, reconcile: Reconcile) -> None:
    airflow.fail("a", conf={"days": 3})
    airflow.fail("b", map_index=2)
    assert reconcile().recorded == 2
    assert reconcile().recorded == 0
    second, first = all_dead_letters(store)
    assert (first["task_id"], first["conf"], first["log_url"]) == ("a", {"days": 3}, "http://airflow.test/job/r1/a")
    assert second["map_index"] == 2


def test_the_cause_that_a_callback_recorded_is_kept(
    store: DeadLetterStore, airflow: FakeAirflow, reconcile: Reconcile
) -> None:
    record_failure(store, attempts=1, cause="recorded by the callback")
    airflow.fail("work", attempts=1)
    assert reconcile().recorded == 0
    [letter] = all_dead_letters(store)
    assert letter["cause"] == "recorded by the callback"


def test_a_run_without_a_failed_task_is_one_dead_letter(
    store: DeadLetterStore, airflow: FakeAirflow, reconcile: Reconcile
) -> None:
    airflow.runs.append(FailedRun("job", "r1", {"days": 2}, NOW))
    assert [reconcile().recorded for _ in range(2)] == [1, 0]
    [letter] = all_dead_letters(store)
    assert (letter["task_id"], letter["map_index"], letter["conf"]) == ("", -1, {"days": 2})


def test_a_task_that_failed_long_before_its_run_is_the_dead_letter(
    store: DeadLetterStore, airflow: FakeAirflow, reconcile: Reconcile
) -> None:
    airflow.fail("early", at=seconds_after_now(-7200))
    airflow.runs = [FailedRun("job", "r1", {}, NOW)]
    reconcile()
    [letter] = all_dead_letters(store)
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
        ([{"event": "nothing said"}], "unknown", "ended without an error"),
    ],
)
def test_the_cause_is_read_from_the_log(
    store: DeadLetterStore,
    airflow: FakeAirflow,
    reconcile: Reconcile,
    log: list[dict[str, object]],
    failure_class: str,
    cause: str,
) -> None:
    airflow.fail("work")
    airflow.logs["work"] = log
    reconcile()
    [letter] = all_dead_letters(store)
    assert letter["class"] == failure_class
    assert cause in letter["cause"]


def test_the_user_who_marked_a_run_failed_is_the_cause(
    store: DeadLetterStore, airflow: FakeAirflow, reconcile: Reconcile
) -> None:
    airflow.fail("work")
    airflow.marked["r1"] = "ann"
    reconcile()
    [letter] = all_dead_letters(store)
    assert letter["cause"] == "marked failed by hand, by ann"


def test_airflows_reason_is_kept_if_the_reconciler_runs_later(
    store: DeadLetterStore, airflow: FakeAirflow, reconcile: Reconcile
) -> None:
    run = FailedRun("job", "r1", {}, NOW)
    airflow.runs.append(run)
    assert record_failed_run(store, airflow, run, "timed_out") == 1
    reconcile()
    [letter] = all_dead_letters(store)
    assert (letter["class"], letter["cause"]) == ("timeout", "the run took longer than its dagrun_timeout")


def test_it_continues_after_its_last_run_with_an_overlap(airflow: FakeAirflow, reconcile: Reconcile) -> None:
    reconcile()
    reconcile(seconds_after_now(300))
    assert airflow.since[1] == NOW - OVERLAP
    reconcile(seconds_after_now(-300))
    reconcile(seconds_after_now(600))
    assert airflow.since[3] == seconds_after_now(300) - OVERLAP, "the cursor never goes back"


def test_if_airflow_fails_midway_the_next_run_finds_everything(
    store: DeadLetterStore, airflow: FakeAirflow, reconcile: Reconcile
) -> None:
    airflow.fail("work")

    def fail() -> list[object]:
        raise ConnectionError

    good, airflow.import_errors = airflow.import_errors, fail  # type: ignore[method-assign,assignment]
    with pytest.raises(ConnectionError):
        reconcile(seconds_after_now(3600))
    airflow.import_errors = good  # type: ignore[method-assign]
    airflow.fail("other", run_id="r2", at=seconds_after_now(10))
    reconcile(seconds_after_now(3600))
    assert {letter["task_id"] for letter in all_dead_letters(store)} == {"work", "other"}


def test_import_errors_are_recorded_and_resolved(
    store: DeadLetterStore, airflow: FakeAirflow, reconcile: Reconcile
) -> None:
    airflow.errors = [make_import_failure()]
    assert reconcile().import_errors == 1
    [letter] = all_dead_letters(store)
    assert (letter["kind"], letter["name"], letter["class"]) == ("import", "jobs.py", "validation")
    assert "SyntaxError: x" in letter["cause"]
    airflow.errors = []
    assert reconcile().resolved == 1
    assert all_dead_letters(store)[0]["state"] == "resolved"


def test_messages_that_were_changed_by_hand_are_found(
    outbox: Outbox, store: DeadLetterStore, reconcile: Reconcile
) -> None:
    message_id = outbox.enqueue()
    outbox.sql(
        "UPDATE backline.message SET state = 'dead', finalized_at = now() - interval '1 h' WHERE id = %s", message_id
    )
    assert all_dead_letters(store) == []
    assert [reconcile().recorded for _ in range(2)] == [1, 0]
    [letter] = all_dead_letters(store)
    assert letter["message_id"] == message_id
