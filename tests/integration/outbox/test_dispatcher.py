"""The dispatcher with the real email channel against a real SMTP server on loopback."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any

import httpx
import pytest

from backline.channels.base import Message
from backline.channels.email.channel import EmailChannel, PreparedEmail
from backline.channels.email.settings import EmailSettings
from backline.messages import render_email
from backline.outbox.delivery import Delivery
from backline.outbox.dispatcher import Dispatcher, DispatchReport
from backline.outbox.inline_delivery import InlineSender, Route, SendResult
from backline.outbox.maintenance import stop_dispatchers
from backline.outbox.store import LeasedMessage, Store
from backline.outbox.submission import NewMessage
from backline.settings import DEFAULT_RETRY_POLICIES, ROOT, LaneSettings, OutboxSettings
from smtp_pipeline import SmtpServer
from tests.integration.outbox.support import PAYLOAD, Outbox

NAME = "email.normal"
LANE = LaneSettings(channel="email", max_dispatchers=2, idle_timeout_seconds=30, batch_size=100)
READY = re.compile(r"SMTP 127\.0\.0\.1:(\d+), page (http://127\.0\.0\.1:\d+)/")


class Catcher:
    """A mail catcher of our own, with its fault switches."""

    def __init__(self, maildir: Path) -> None:
        self.maildir = maildir
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sandbox.mail", "--smtp-port", "0", "--web-port", "0", "--maildir", str(maildir)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout
        ready = READY.search(self.process.stdout.readline())
        assert ready
        self.port = int(ready[1])
        self.web = httpx.Client(base_url=ready[2], trust_env=False)

    def fail(self, **rule: Any) -> None:
        self.web.put("/faults", json=[{"stage": "data", "action": "reply", **rule}]).raise_for_status()

    def clear_faults(self) -> None:
        self.web.delete("/faults").raise_for_status()

    def recipients(self) -> Counter[str]:
        found = (message_from_bytes(path.read_bytes())["To"] for path in (self.maildir / "new").iterdir())
        return Counter(str(recipient) for recipient in found)

    def close(self) -> None:
        self.web.close()
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catcher]:
    catcher = Catcher(tmp_path_factory.mktemp("mail") / "box")
    yield catcher
    catcher.close()


@pytest.fixture
def mail(running: Catcher) -> Catcher:
    running.clear_faults()
    running.web.delete("/api/messages").raise_for_status()
    return running


def channel(mail: Catcher, **settings: Any) -> EmailChannel:
    return EmailChannel(EmailSettings(**settings), SmtpServer("127.0.0.1", mail.port, "none"), render_email)


def delivery(over: EmailChannel) -> Delivery[PreparedEmail]:
    return Delivery(over, DEFAULT_RETRY_POLICIES, random.Random(1).random)


class RunningDispatcher:
    """A dispatcher in a thread of its own, as in a task."""

    def __init__(
        self, outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor, *, once: bool = False,
        lane: LaneSettings = LANE, outbox_settings: OutboxSettings | None = None,
    ) -> None:  # fmt: skip
        over = channel(mail)
        self.dispatcher = Dispatcher(
            NAME,
            lane,
            outbox_settings or OutboxSettings(),
            outbox.dsn,
            over,
            delivery(over),
            once=once,
            dag_run="dag/run",
        )
        self.report: Future[DispatchReport] = pool.submit(lambda: asyncio.run(self.dispatcher.run()))
        started.append(self)

    def result(self, timeout: float = 30) -> DispatchReport:
        return self.report.result(timeout)


started: list[RunningDispatcher] = []


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made
        while started:  # what a failed test left at work
            served = started.pop()
            if not served.report.done():
                served.dispatcher.stop()


def drain(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor, **options: Any) -> DispatchReport:
    return RunningDispatcher(outbox, mail, pool, once=True, **options).result()


def wait_for(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def expected(count: int) -> Counter[str]:
    return Counter(f"r{number}@example.com" for number in range(count))


# --- drained ----------------------------------------------------------------------------------------------------


def test_300_messages_arrive_exactly_once(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    outbox.enqueue_many(300)
    report = drain(outbox, mail, pool)
    assert (report.end_reason, report.outcomes) == ("drained", {"sent": 300})
    assert mail.recipients() == expected(300)
    assert outbox.state_counts() == {"sent": 300}
    assert outbox.sql("SELECT * FROM backline.dispatcher") == []
    [row] = outbox.sql(
        "SELECT count(*), min(code) AS code, min(outcome) AS outcome, min(dag_run) AS dag_run, count(response) AS responses FROM backline.attempt"
    )
    assert (row["count"], row["outcome"], row["dag_run"], row["responses"]) == (300, "sent", "dag/run", 300)
    assert row["code"].startswith("250")
    assert outbox.value("SELECT count(DISTINCT provider_id) FROM backline.message") == 300


def test_two_dispatchers_share_a_lane(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    outbox.enqueue_many(300)
    reports = [served.result() for served in [RunningDispatcher(outbox, mail, pool, once=True) for _ in range(2)]]
    assert sum(report.outcomes["sent"] for report in reports) == 300
    assert mail.recipients() == expected(300)


def test_an_empty_lane_ends_at_once_and_a_served_one_needs_no_other(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    began = time.monotonic()
    report = RunningDispatcher(outbox, mail, pool).result(10)
    assert (report.end_reason, report.outcomes) == ("drained", {})
    assert time.monotonic() - began < 5
    outbox.dispatcher(slots=2), outbox.dispatcher(slots=2)
    outbox.enqueue()
    assert RunningDispatcher(outbox, mail, pool).result(10).end_reason == "the lane has all its dispatchers"
    assert outbox.state_counts() == {"pending": 1}


def test_expired_and_cancelled_messages_are_not_sent(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    cancelled, expired, kept = (
        outbox.enqueue(f"{name}@example.com", expires_at=datetime.now(UTC) + timedelta(hours=1))
        for name in ("cancelled", "expired", "kept")
    )
    outbox.cancel(cancelled)
    outbox.sql("UPDATE backline.message SET expires_at = clock_timestamp() - interval '1 s' WHERE id = %s", expired)
    drain(outbox, mail, pool)
    assert mail.recipients() == Counter(["kept@example.com"])
    assert [outbox.message(message_id)["state"] for message_id in (cancelled, expired, kept)] == [
        "cancelled",
        "expired",
        "sent",
    ]


def test_a_message_held_by_a_dispatcher_is_cancelled(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    mail.fail(action="slow", seconds=0.3)
    ids = outbox.enqueue_many(60)
    served = RunningDispatcher(outbox, mail, pool, once=True)
    wait_for(lambda: outbox.state_counts().get("leased"))
    assert outbox.cancel(ids[-1]) == "leased"
    served.result()
    assert outbox.message(ids[-1])["state"] == "cancelled"
    assert mail.recipients() == expected(59)


def test_a_transient_refusal_is_scheduled_with_its_class(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    mail.fail(reply="451 4.3.0 try later", times=1)
    made = outbox.enqueue()
    assert drain(outbox, mail, pool).outcomes == {"scheduled": 1}
    row = outbox.message(made)
    assert (row["state"], row["attempt"], row["finalized_at"]) == ("scheduled", 1, None)
    assert row["error_class"] in DEFAULT_RETRY_POLICIES
    assert "try later" in row["error"]
    [attempt] = outbox.attempts(made)
    assert (attempt["outcome"], attempt["error_class"], attempt["code"]) == (
        "scheduled",
        row["error_class"],
        "451 4.3.0",
    )
    assert "try later" in attempt["response"]
    outbox.make_due(made)
    drain(outbox, mail, pool)
    assert outbox.message(made)["state"] == "sent"
    assert mail.recipients() == Counter(["ann@example.com"])


def test_a_permanent_refusal_is_dead_with_its_reason(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    mail.fail(stage="rcpt", reply="550 5.1.1 no such user", recipient="bad@*")
    bad, good = outbox.enqueue("bad@example.com"), outbox.enqueue("good@example.com")
    drain(outbox, mail, pool)
    row = outbox.message(bad)
    assert (row["state"], row["error_class"], row["attempt"]) == ("dead", "rejected", 1)
    assert "no such user" in row["error"]
    assert outbox.message(good)["state"] == "sent"


def test_the_last_attempt_ends_dead(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    mail.fail(reply="451 4.3.0 try later")
    made = outbox.enqueue()
    outbox.sql("UPDATE backline.message SET attempt = 5")
    drain(outbox, mail, pool)
    assert outbox.message(made)["state"] == "dead"


def test_an_error_that_only_the_model_finds_is_dead_with_the_fields_name(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    made = outbox.enqueue(type="templated_email", payload='{"template": "no_such", "context": {}}')
    drain(outbox, mail, pool)
    row = outbox.message(made)
    assert (row["state"], row["error_class"]) == ("dead", "validation")
    assert row["error"].startswith("template: ")


def test_a_rescued_message_is_sent_too(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    outbox.enqueue_many(20)
    outbox.claim(10, outbox.dispatcher())
    outbox.sql("UPDATE backline.dispatcher SET heartbeat_at = clock_timestamp() - interval '1 h'")
    drain(outbox, mail, pool)
    assert mail.recipients() == expected(20)


@pytest.mark.parametrize(("rescued", "seconds"), [("none", 2), ("slow", 5), ("other", 12)])
def test_a_message_that_takes_long_keeps_no_other_waiting(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, rescued: str, seconds: int
) -> None:
    monkeypatch.setattr("backline.outbox.dispatcher.RESCUE_INTERVAL_SECONDS", 0.5)
    mail.fail(action="slow", stage="rcpt", seconds=60.0, recipient="slow@example.com")
    ids = {"slow": outbox.enqueue("slow@example.com"), "other": outbox.enqueue("other@example.com")}
    if rescued in ids:
        outbox.sql("UPDATE backline.message SET rescues = 1 WHERE id = %s", ids[rescued])
    served = RunningDispatcher(outbox, mail, pool)
    wait_for(lambda: outbox.message(ids["slow"])["state"] == "leased")
    until, number = time.monotonic() + 3, 0  # several looks for rescued messages
    while time.monotonic() < until:
        number += 1
        made, began = outbox.enqueue(f"r{number}@example.com"), time.monotonic()
        wait_for(lambda made=made: outbox.message(made)["state"] == "sent", 40)
        assert time.monotonic() - began < seconds
    assert outbox.message(ids["slow"])["state"] == "leased"
    served.dispatcher.stop()
    served.result()


def test_a_lane_with_a_rate_sends_no_faster(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    outbox.enqueue_many(40)
    lane = LANE.model_copy(update={"rate_per_minute": 600.0, "rate_burst": 30})
    began = time.monotonic()
    drain(outbox, mail, pool, lane=lane)
    assert mail.recipients() == expected(40)
    assert time.monotonic() - began > 0.9  # 10 tokens at 10 a second, from the first claim


# --- warm, stopped, handed over -----------------------------------------------------------------------------------------


def test_stays_warm_for_what_comes_later_and_ends_when_quiet(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    outbox.enqueue("r0@example.com")
    served = RunningDispatcher(outbox, mail, pool, lane=LANE.model_copy(update={"idle_timeout_seconds": 1.0}))
    wait_for(lambda: outbox.state_counts() == {"sent": 1})
    outbox.enqueue("r1@example.com")
    assert served.result().outcomes == {"sent": 2}
    assert mail.recipients() == expected(2)


@pytest.mark.parametrize("fault", [{}, {"action": "slow", "seconds": 8.0}], ids=["quick server", "hanging server"])
def test_stop_returns_the_leases_within_3_seconds_and_nothing_is_lost(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor, fault: dict[str, Any]
) -> None:
    count = 300 if fault else 600
    if fault:
        mail.fail(**fault)
    outbox.enqueue_many(count)
    served = RunningDispatcher(outbox, mail, pool)
    wait_for(lambda: outbox.state_counts().get("leased", 0) >= 50)
    asked = time.monotonic()
    stopper = threading.Thread(target=served.dispatcher.stop, args=("terminated",))
    stopper.start()
    report = served.result()
    took = time.monotonic() - asked
    stopper.join()
    assert report.end_reason == "terminated"
    states = outbox.state_counts()
    assert "leased" not in states
    assert states["pending"] + states.get("sent", 0) == count
    assert states["pending"] > 0
    assert outbox.sql("SELECT * FROM backline.dispatcher") == []
    assert (
        outbox.value("SELECT max(rescues) + max(attempt) FILTER (WHERE state = 'pending') FROM backline.message") == 0
    )
    assert took < 3.0
    mail.clear_faults()
    drain(outbox, mail, pool)
    assert outbox.state_counts() == {"sent": count}
    if fault:
        assert set(mail.recipients()) == set(expected(count))
    else:
        assert mail.recipients() == expected(count)


def test_stop_while_a_claim_comes_back_leaves_nothing_leased(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.enqueue_many(200)
    claim = Store.claim

    async def claim_and_be_stopped(store: Store, *args: Any) -> list[LeasedMessage]:
        messages = await claim(store, *args)
        served.dispatcher.stop("terminated")
        for _ in range(20):  # rounds of the loop in which the dispatcher could already wind up
            await asyncio.sleep(0)
        return messages

    monkeypatch.setattr(Store, "claim", claim_and_be_stopped)
    served = RunningDispatcher(outbox, mail, pool)
    assert served.result().end_reason == "terminated"
    assert outbox.state_counts() == {"pending": 200}


def test_a_claim_that_was_lost_repeats_no_more_than_was_unconfirmed(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    """As when PostgreSQL crashes before a claim is on disk: the rows are pending again, the dispatcher has them too."""
    mail.fail(action="slow", seconds=1.0)
    outbox.enqueue_many(300)
    served = RunningDispatcher(outbox, mail, pool, once=True, lane=LANE.model_copy(update={"batch_size": 300}))
    wait_for(lambda: outbox.state_counts() == {"leased": 300})
    outbox.sql(
        "UPDATE backline.message SET state = 'pending', lease_token = NULL, leased_until = NULL, dispatcher = NULL"
    )
    mail.clear_faults()
    served.result()
    assert outbox.state_counts() == {"sent": 300}
    received = mail.recipients()
    assert set(received) == set(expected(300))
    assert received.total() - 300 <= OutboxSettings().max_unconfirmed


def test_stop_before_the_start_is_not_forgotten(outbox: Outbox, mail: Catcher) -> None:
    outbox.enqueue()
    over = channel(mail)
    dispatcher = Dispatcher(NAME, LANE, OutboxSettings(), outbox.dsn, over, delivery(over))
    dispatcher.stop("terminated")

    async def bounded() -> DispatchReport:
        return await asyncio.wait_for(dispatcher.run(), 3)

    assert asyncio.run(bounded()).end_reason == "terminated"


def test_stop_after_the_end_does_nothing(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    served = RunningDispatcher(outbox, mail, pool, once=True)
    assert served.result().end_reason == "drained"
    served.dispatcher.stop("terminated")


def test_all_dispatchers_can_be_asked_to_stop_from_outside(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    outbox.enqueue()
    served = RunningDispatcher(outbox, mail, pool)
    wait_for(lambda: outbox.state_counts() == {"sent": 1})
    assert stop_dispatchers(outbox.dsn, 10)
    assert served.result().end_reason == "stopped"


def test_a_dispatcher_declared_dead_ends(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    outbox.enqueue()
    served = RunningDispatcher(outbox, mail, pool)
    wait_for(lambda: outbox.state_counts() == {"sent": 1})
    outbox.sql("DELETE FROM backline.dispatcher")
    assert served.result().end_reason.startswith("declared dead")


SHORT = OutboxSettings().model_copy(update={"dispatcher_lifetime_seconds": 0.5})


def alive(outbox: Outbox) -> list[bool]:
    return [row["handing_over"] for row in outbox.sql("SELECT handing_over FROM backline.dispatcher ORDER BY id")]


def test_a_stream_continues_over_the_handover(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    lane = LANE.model_copy(update={"max_dispatchers": 1, "idle_timeout_seconds": 2.0})
    enough = threading.Event()

    def produce() -> int:
        number = 0
        with Outbox(outbox.dsn) as producer:
            while not enough.is_set():
                producer.enqueue(f"r{number}@example.com")
                number += 1
                time.sleep(0.005)
        return number

    produced = pool.submit(produce)
    try:
        wait_for(outbox.state_counts)
        first = RunningDispatcher(outbox, mail, pool, lane=lane, outbox_settings=SHORT)
        wait_for(lambda: alive(outbox) == [True])
        second = RunningDispatcher(outbox, mail, pool, lane=lane)
        assert first.result().end_reason == "handed over"
        assert alive(outbox) == [False]
    finally:
        enough.set()
    report = second.result()
    assert report.outcomes["sent"] > 0
    assert first.result().outcomes["sent"] > 0
    assert mail.recipients() == expected(produced.result())
    assert set(outbox.state_counts()) == {"sent"}


def test_a_long_backlog_is_handed_over_too(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    mail.fail(action="slow", seconds=0.1)
    outbox.enqueue_many(2000)
    lane = LANE.model_copy(update={"max_dispatchers": 1})
    first = RunningDispatcher(outbox, mail, pool, lane=lane, outbox_settings=SHORT)
    wait_for(lambda: alive(outbox) == [True])
    second = RunningDispatcher(outbox, mail, pool, lane=lane)
    assert first.result(15).end_reason == "handed over"
    assert outbox.state_counts()["pending"] > 0
    second.dispatcher.stop()
    second.result()
    assert "leased" not in outbox.state_counts()


def test_leases_are_renewed_while_a_slow_server_answers(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    mail.fail(action="slow", seconds=4.0)
    made = outbox.enqueue()
    served = RunningDispatcher(outbox, mail, pool, once=True, lane=LANE.model_copy(update={"lease_seconds": 3.0}))
    wait_for(lambda: outbox.state_counts().get("leased"))
    while not served.report.done():
        assert outbox.rescue() == 0
        time.sleep(0.05)
    assert outbox.message(made)["state"] == "sent"
    assert mail.recipients() == Counter(["ann@example.com"])


# --- inside a run -----------------------------------------------------------------------------------------------------------


def sender(outbox: Outbox, mail: Catcher, lease_seconds: float = 60.0) -> InlineSender:
    over = channel(mail)
    lane = LANE.model_copy(update={"lease_seconds": lease_seconds})
    return InlineSender(outbox.dsn, {"email": Route(over, delivery(over), lane)})


def send(
    outbox: Outbox, mail: Catcher, *, lease_seconds: float = 60.0, key: str = "dag/run", **given: Any
) -> SendResult:
    request = NewMessage(**{"type": "email", "recipient": "ann@example.com", "payload": PAYLOAD, "key": key, **given})
    [result] = asyncio.run(sender(outbox, mail, lease_seconds).send(request, "dag/run"))
    return result


def test_a_run_sends_its_message_once(outbox: Outbox, mail: Catcher) -> None:
    result = send(outbox, mail, request_id="req-1")
    assert (result.state, result.attempt, result.final) == ("sent", 1, True)
    assert result.provider_id
    again = send(outbox, mail, request_id="req-1")
    assert (again.message_id, again.state, again.attempt) == (result.message_id, "sent", 1)
    assert mail.recipients() == Counter(["ann@example.com"])
    [attempt] = outbox.attempts(result.message_id)
    assert (attempt["outcome"], attempt["dag_run"], attempt["dispatcher"]) == ("sent", "dag/run", None)
    assert attempt["code"].startswith("250")
    assert attempt["response"]


def test_another_run_sends_again(outbox: Outbox, mail: Catcher) -> None:
    send(outbox, mail, key="dag/one")
    send(outbox, mail, key="dag/other")
    assert mail.recipients() == Counter({"ann@example.com": 2})


def test_no_dispatcher_sees_the_message_before_its_run_has_it(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    outbox.enqueue("warm@example.com")
    served = RunningDispatcher(outbox, mail, pool)
    wait_for(lambda: outbox.state_counts() == {"sent": 1})
    results = [send(outbox, mail, key=f"dag/{number}", recipient=f"r{number}@example.com") for number in range(10)]
    served.dispatcher.stop()
    assert served.result().outcomes == {"sent": 1}
    assert {result.state for result in results} == {"sent"}
    assert mail.recipients() == expected(10) + Counter(["warm@example.com"])


def test_a_failed_attempt_is_retried_when_due(outbox: Outbox, mail: Catcher) -> None:
    mail.fail(reply="451 4.3.0 try later", times=1)
    result = send(outbox, mail)
    assert (result.state, result.attempt, result.final) == ("scheduled", 1, False)
    assert result.error_class in DEFAULT_RETRY_POLICIES
    assert result.due_in > 40
    early = send(outbox, mail)  # Airflow came too soon: nothing happens
    assert (early.message_id, early.state, early.attempt) == (result.message_id, "scheduled", 1)
    outbox.make_due(result.message_id)
    assert send(outbox, mail).state == "sent"
    assert mail.recipients() == Counter(["ann@example.com"])


def test_a_run_does_not_send_a_message_leased_by_another(outbox: Outbox, mail: Catcher) -> None:
    mail.fail(reply="451 4.3.0 try later", times=1)
    result = send(outbox, mail)
    outbox.make_due(result.message_id)
    outbox.run(outbox.store.promote())
    [held] = outbox.claim(dispatcher=outbox.dispatcher())
    meanwhile = send(outbox, mail)
    assert (meanwhile.state, meanwhile.final) == ("leased", False)
    assert 50 < meanwhile.due_in <= 60
    assert mail.recipients() == Counter()
    assert outbox.message(held.id)["lease_token"] == held.token


def test_a_run_takes_over_the_message_of_its_killed_attempt(outbox: Outbox, mail: Catcher) -> None:
    mail.fail(reply="451 4.3.0 try later", times=1)
    result = send(outbox, mail)
    outbox.make_due(result.message_id)
    outbox.run_statement(
        "message_lease_one", id=result.message_id, token="00000000-0000-0000-0000-000000000001", lease_seconds=60.0
    )
    outbox.expire_leases(result.message_id)
    assert send(outbox, mail).state == "sent"


def test_a_run_keeps_its_lease_while_a_slow_server_answers(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    mail.fail(action="slow", seconds=2.5)
    result = pool.submit(send, outbox, mail, lease_seconds=1.0)
    while not result.done():
        assert outbox.rescue() == 0
        time.sleep(0.05)
    assert result.result().state == "sent"
    assert mail.recipients() == Counter(["ann@example.com"])


def test_a_run_that_is_cleared_after_its_message_expired_still_does_not_fail(outbox: Outbox, mail: Catcher) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=1.5)
    assert send(outbox, mail, expires_at=expires).state == "sent"
    outbox.sql("SELECT pg_sleep_until(%s)", expires)
    assert send(outbox, mail, expires_at=expires).state == "sent"


def test_message_ids_are_the_same_at_every_attempt(mail: Catcher) -> None:
    over = channel(mail)
    made = datetime.now(UTC)
    attempts = [
        over.prepare(
            Message(id=7, type="email", recipient="a@example.com", payload=PAYLOAD, created_at=made, attempt=n)
        )
        for n in (1, 2)
    ]
    assert attempts[0].message_id == attempts[1].message_id
