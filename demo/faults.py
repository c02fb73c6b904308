"""Faults: a mail server that rejects temporarily or permanently, and a killed dispatcher."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil

from backline.errors import Rejected
from backline.settings import settings
from demo.check import Check, Result, require, wait_until
from demo.context import DemoContext

TRANSIENT_REPLY = "451 4.3.0 try again later"
PERMANENT_REPLY = "550 5.1.1 no such user here"
RETRY_TIMEOUT_SECONDS = 150.0
"""The first retry is due after a minute, ± 20 %."""
KILL_BACKLOG = 1000
KILL_AFTER = 100
RESPONSE_DELAY_SECONDS = 0.05
"""The delay of the slowed server: long enough to kill a dispatcher in the middle of its work."""
LANE = "email.normal"


def permanent_fault_check() -> Check:
    """A permanent rejection."""
    return Check("a permanent fault (550) ends dead", _check_permanent_fault, log_name="mail")


def transient_fault_check() -> Check:
    """A temporary rejection: prepared first and checked last, as its retry is due after a minute."""
    return Check(
        "a transient fault (451) is retried", _check_transient_fault, _prepare_transient_fault, log_name="mail"
    )


def dispatcher_kill_check() -> Check:
    """A dispatcher that gets SIGKILL in the middle of its work."""
    return Check("a SIGKILLed dispatcher loses nothing", _check_dispatcher_kill)


def _prepare_transient_fault(context: DemoContext) -> None:
    recipient = f"ann@{context.domain('busy')}"
    context.mail.set_faults({"recipient": recipient, "stage": "rcpt", "action": "reply", "reply": TRANSIENT_REPLY})
    message_id = context.enqueue("email", recipient, {"subject": "On the second attempt", "text": "Here it is."})
    context.sent[message_id] = recipient
    wait_until(lambda: context.message_status(message_id)["attempt"], "the first attempt")
    context.mail.set_faults()


def _check_transient_fault(context: DemoContext) -> Result:
    domain = context.domain("busy")
    message_id = next(number for number, recipient in context.sent.items() if recipient.endswith(f"@{domain}"))

    def ended() -> bool:
        status = context.message_status(message_id)
        if status["state"] == "scheduled":
            context.report_progress(f"the second attempt is due in {max(0.0, status['seconds_to_due']):.0f} s")
        return status["finalized_at"] is not None

    wait_until(ended, "the end of the message", RETRY_TIMEOUT_SECONDS)
    attempts = context.query("outbox", "message_attempts", id=message_id)
    outcomes = [row["outcome"] for row in attempts]
    require(outcomes == ["scheduled", "sent"], f"its attempts ended as {', '.join(outcomes)}")
    require(str(attempts[0]["code"]).startswith("451"), f"its first attempt got {attempts[0]['code']}, not 451")
    count = len(context.emails_at(domain))
    require(count == 1, f"{count} messages arrived instead of 1")
    waited = (attempts[1]["started_at"] - attempts[0]["started_at"]).total_seconds()
    return Result("1 email, 2nd attempt", f"1 email, 2nd after {waited:.0f} s")


def _check_permanent_fault(context: DemoContext) -> Result:
    recipient = f"nobody@{context.domain('gone')}"
    context.mail.set_faults({"recipient": recipient, "stage": "rcpt", "action": "reply", "reply": PERMANENT_REPLY})
    message_id = context.enqueue("email", recipient, {"subject": "Never read", "text": "Never read."})
    context.dead[message_id] = recipient
    wait_until(lambda: context.message_status(message_id)["finalized_at"], "the end of the message")
    context.mail.set_faults()
    status = context.message_status(message_id)
    require(status["state"] == "dead", f"it ended as {status['state']}")
    require(status["attempt"] == 1, f"it had {status['attempt']} attempts instead of 1")
    require("550" in (status["error"] or ""), f"its error lacks the server's code 550: {status['error']}")
    count = len(context.emails_at(context.domain("gone")))
    require(count == 0, f"{count} messages arrived instead of 0")
    return Result("dead, 550", f"dead: {status['error_class']}, 550 5.1.1")


def _check_dispatcher_kill(context: DemoContext) -> Result:
    domain = context.domain("crash")
    recipients = [f"reader-{number:04}@{domain}" for number in range(KILL_BACKLOG)]
    payloads = ({"subject": f"Issue {number:04}", "text": "Worth reading."} for number in range(KILL_BACKLOG))
    # Stored first, acknowledged late: messages in flight at the kill have arrived, which the dispatcher cannot know.
    context.mail.set_faults(
        {
            "recipient": f"*@{domain}",
            "stage": "data",
            "action": "slow",
            "seconds": RESPONSE_DELAY_SECONDS,
            "after": True,
        }
    )
    ids = context.enqueue_many("email", recipients, payloads)
    wait_until(
        lambda: context.mail.count(f"*@{domain}", context.since) >= KILL_AFTER, f"the first {KILL_AFTER} messages"
    )
    process = wait_until(lambda: next(dispatcher_processes(context), None), "a dispatcher at work")
    process.kill()
    context.mail.set_faults()
    context.report_progress(f"killed process {process.pid}; its messages are rescued after a missed heartbeat")
    require(_unfinished_count(context, ids), "all messages were finished before the kill")
    wait_until(lambda: _unfinished_count(context, ids) == 0, "the end of all messages")
    states = context.count_states(ids)
    require(states == {"sent": KILL_BACKLOG}, f"the messages ended as {dict(states)}")
    arrived = [recipient for arrival in context.emails_at(domain) for recipient in arrival.recipients]
    lost = set(recipients) - set(arrived)
    require(not lost, f"{len(lost)} never arrived")
    duplicates, bound = len(arrived) - KILL_BACKLOG, settings().outbox.max_unconfirmed
    require(duplicates <= bound, f"{duplicates} arrived twice; at most {bound} may be in flight")
    return Result(f"1,000, ≤ {bound} twice", f"{len(set(arrived)):,}, {duplicates} twice")


def _unfinished_count(context: DemoContext, ids: list[int]) -> int:
    return int(context.query("demo", "message_unfinished_count", ids=ids)[0]["unfinished"])


def dispatcher_processes(context: DemoContext, lane: str = LANE) -> Iterator[psutil.Process]:
    """The live processes of the dispatchers that hold messages of a lane, the busiest first, from Airflow's task data."""
    for row in context.query("demo", "dispatcher_busiest", lane=lane):
        if not row["held_count"]:
            return
        dag_id, _, run_id = row["dag_run"].partition("/")
        try:
            task = context.airflow.task(dag_id, run_id, "dispatch")
            process = psutil.Process(int(task["pid"] or 0))
            title = " ".join(process.cmdline())
        except (Rejected, psutil.Error):
            continue
        # Airflow puts the start of the task's id into the process title, so that no other process is killed.
        if task["state"] == "running" and str(task["id"])[:18] in title and process.pid != os.getpid():
            yield process
