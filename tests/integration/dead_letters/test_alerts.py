"""Alerts: one email per group and window, each failure reported once, and no alerts about alerts."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from backline.dead_letters.alerts import Alert, AlertReport, AlertSender, send_due_alerts
from backline.dead_letters.settings import DeadLetterSettings
from backline.dead_letters.store import DeadLetterStore
from backline.errors import FailureClass, NetworkFailure
from backline.jobs.limits import insert_late_run
from backline.settings import AlertSettings
from tests.integration.dead_letters.support import (
    all_dead_letters,
    make_dead_message,
    make_import_failure,
    record_failure,
    seconds_after_now,
)
from tests.integration.job_factory import create_job
from tests.integration.outbox.support import Outbox

CONFIG = AlertSettings(recipients=("ops@example.com",), window_seconds=1800)
Send = Callable[[], list[Alert]]


def run_job(database: str, send: Callable[[Alert], None], config: AlertSettings = CONFIG) -> AlertReport:
    """One run of the task that sends alerts."""
    sender = AlertSender(config, "http://airflow.test/", send)
    return AlertReport(**create_job(database, DeadLetterSettings(), alerts=sender).execute(send_due_alerts))


@pytest.fixture
def send(database: str) -> Send:
    def one_run() -> list[Alert]:
        sent: list[Alert] = []
        assert run_job(database, sent.append).emails == len(sent)
        return sent

    return one_run


def let_windows_pass(store: DeadLetterStore) -> None:
    store.connection.execute("UPDATE backline.alert_group SET next_at = clock_timestamp()")


def test_the_first_failure_is_reported_immediately_and_once(store: DeadLetterStore, send: Send) -> None:
    letter_id = record_failure(store, cause="<no> route & {{ config }}")
    [mail] = send()
    assert mail.to == ("ops@example.com",)
    assert mail.subject == "[Backline] job.work failed (network)"
    for part in ("&lt;no&gt; route &amp; {{ config }}", "once", "4 attempts", "http://airflow.test/log", "r1",
                 f"./backline dead-letters replay {letter_id}",
                 f"http://airflow.test/backline/api/v1/dead-letters/{letter_id}/replay"):  # fmt: skip
        assert part in mail.html
    let_windows_pass(store)
    assert send() == []


def test_many_failures_are_one_email_now_and_one_after_the_window(store: DeadLetterStore, send: Send) -> None:
    for number in range(30):
        record_failure(store, run_id=f"r{number}", failed_at=seconds_after_now(number))
    [mail] = send()
    assert mail.subject == "[Backline] job.work failed (network), 30 times"
    assert "And 20 more" in mail.html
    for number in range(30, 35):
        record_failure(store, run_id=f"r{number}")
    assert send() == []
    let_windows_pass(store)
    [mail] = send()
    assert mail.subject.endswith(", 5 times")
    assert "the last email about this was sent at" in mail.html
    assert all(letter["alerted_at"] for letter in all_dead_letters(store))


def test_groups_are_by_name_task_and_class(store: DeadLetterStore, outbox: Outbox, send: Send) -> None:
    record_failure(store)
    record_failure(store, task_id="other")
    record_failure(store, run_id="r2", failure_class=FailureClass.TIMEOUT)
    record_failure(store, dag_id="else", task_id="")
    make_dead_message(outbox)
    store.record_import(make_import_failure())
    assert {mail.subject for mail in send()} == {
        "[Backline] job.work failed (network)", "[Backline] job.other failed (network)",
        "[Backline] job.work failed (timeout)", "[Backline] else failed (network)",
        "[Backline] message email is dead (rejected)", "[Backline] jobs.py cannot be imported",
    }  # fmt: skip


def test_late_runs_are_reported_the_same_way(database: str, store: DeadLetterStore, send: Send) -> None:
    for run_id in ("r1", "r1", "r2"):
        insert_late_run(database, "job", run_id, 60, f"http://airflow.test/{run_id}")
    [mail] = send()
    assert mail.subject == "[Backline] job is late, 2 times"
    assert "not ended within 60 seconds" in mail.html
    assert "http://airflow.test/r2" in mail.html
    let_windows_pass(store)
    assert send() == []


def test_a_closed_dead_letter_is_not_reported(store: DeadLetterStore, send: Send) -> None:
    store.close(record_failure(store), "discarded", by="ann", reason="x", replay_ref=None)
    assert send() == []


def test_simultaneous_senders_send_one_email(database: str, store: DeadLetterStore) -> None:
    for number in range(20):
        record_failure(store, run_id=f"r{number}")
    sent: list[Alert] = []
    inside, go_on = threading.Event(), threading.Event()

    def slow(alert: Alert) -> None:
        sent.append(alert)
        inside.set()
        assert go_on.wait(10)

    first = threading.Thread(target=run_job, args=(database, slow))
    first.start()
    assert inside.wait(10)
    assert run_job(database, sent.append).emails == 0
    go_on.set()
    first.join()
    assert len(sent) == 1


def test_an_email_that_cannot_be_sent_is_sent_later_and_is_no_failure(
    database: str, store: DeadLetterStore, send: Send
) -> None:
    record_failure(store)

    def refuse(_: Alert) -> None:
        raise NetworkFailure("the mail server is not available")

    report = run_job(database, refuse)
    assert (report.emails, report.deferred) == (0, 1)
    assert len(all_dead_letters(store)) == 1
    assert send() == [], "deferred"
    let_windows_pass(store)
    assert len(send()) == 1


def test_without_recipients_nothing_is_sent(database: str, store: DeadLetterStore) -> None:
    record_failure(store)
    sent: list[Alert] = []
    assert run_job(database, sent.append, AlertSettings(recipients=())).emails == 0
    assert sent == []
