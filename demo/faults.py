"""A mail server that is away, one that refuses, and a dispatcher that is killed."""

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
"""The first retry comes after a minute, ± 20 %."""
KILL_BACKLOG = 1000
KILL_AFTER = 100
RESPONSE_DELAY_SECONDS = 0.05
"""Each answer of the slowed server: long enough to be killed in the middle of the work."""
LANE = "email.normal"


def permanent_fault_check() -> Check:
    """A refusal for good."""
    return Check("a permanent fault (550) ends dead", _check_permanent_fault, log_name="mail")


def transient_fault_check() -> Check:
    """A refusal for now: prepared first and looked at last, for its retry is due after a minute."""
    return Check(
        "a transient fault (451) is retried", _check_transient_fault, _prepare_transient_fault, log_name="mail"
    )


def dispatcher_kill_check() -> Check:
    """SIGKILL in the middle of the work."""
    return Check("a SIGKILLed dispatcher loses nothing", _check_dispatcher_kill)


def _prepare_transient_fault(world: DemoContext) -> None:
    recipient = f"ann@{world.domain('busy')}"
    world.mail.set_faults({"recipient": recipient, "stage": "rcpt", "action": "reply", "reply": TRANSIENT_REPLY})
    message_id = world.enqueue("email", recipient, {"subject": "At the second try", "text": "Here it is."})
    world.sent[message_id] = recipient
    wait_until(lambda: world.message_status(message_id)["attempt"], "the first try")
    world.mail.set_faults()


def _check_transient_fault(world: DemoContext) -> Result:
    domain = world.domain("busy")
    message_id = next(number for number, recipient in world.sent.items() if recipient.endswith(f"@{domain}"))

    def ended() -> bool:
        status = world.message_status(message_id)
        if status["state"] == "scheduled":
            world.report_progress(f"the second try is due in {max(0.0, status['seconds_to_due']):.0f} s")
        return status["finalized_at"] is not None

    wait_until(ended, "the end of the message", RETRY_TIMEOUT_SECONDS)
    tries = world.query("outbox", "message_attempts", id=message_id)
    outcomes = [row["outcome"] for row in tries]
    require(outcomes == ["scheduled", "sent"], f"its tries ended as {', '.join(outcomes)}")
    require(str(tries[0]["code"]).startswith("451"), f"its first try was answered {tries[0]['code']}, not 451")
    count = len(world.emails_at(domain))
    require(count == 1, f"{count} messages arrived")
    waited = (tries[1]["started_at"] - tries[0]["started_at"]).total_seconds()
    return Result("1 mail, 2nd try", f"1 mail, 2nd try after {waited:.0f} s")


def _check_permanent_fault(world: DemoContext) -> Result:
    recipient = f"nobody@{world.domain('gone')}"
    world.mail.set_faults({"recipient": recipient, "stage": "rcpt", "action": "reply", "reply": PERMANENT_REPLY})
    message_id = world.enqueue("email", recipient, {"subject": "Never read", "text": "Never read."})
    world.dead[message_id] = recipient
    wait_until(lambda: world.message_status(message_id)["finalized_at"], "the end of the message")
    world.mail.set_faults()
    status = world.message_status(message_id)
    require(status["state"] == "dead", f"it ended as {status['state']}")
    require(status["attempt"] == 1, f"it was tried {status['attempt']} times")
    require("550" in (status["error"] or ""), f"its reason does not hold the server's code 550: {status['error']}")
    count = len(world.emails_at(world.domain("gone")))
    require(count == 0, f"{count} messages arrived")
    return Result("dead, 550", f"dead: {status['error_class']}, 550 5.1.1")


def _check_dispatcher_kill(world: DemoContext) -> Result:
    domain = world.domain("crash")
    recipients = [f"reader-{number:04}@{domain}" for number in range(KILL_BACKLOG)]
    payloads = ({"subject": f"Issue {number:04}", "text": "Worth reading."} for number in range(KILL_BACKLOG))
    # Kept first, answered late: what is in flight at the kill has arrived, and nobody on our side knows.
    world.mail.set_faults(
        {
            "recipient": f"*@{domain}",
            "stage": "data",
            "action": "slow",
            "seconds": RESPONSE_DELAY_SECONDS,
            "after": True,
        }
    )
    ids = world.enqueue_many("email", recipients, payloads)
    wait_until(lambda: world.mail.count(f"*@{domain}", world.since) >= KILL_AFTER, f"the first {KILL_AFTER} messages")
    process = wait_until(lambda: next(dispatcher_processes(world), None), "a dispatcher at work")
    process.kill()
    world.mail.set_faults()
    world.report_progress(f"killed process {process.pid}; its messages are rescued once its heart is missed")
    require(_unfinished_count(world, ids), "nothing was left to do when it was killed")
    wait_until(lambda: _unfinished_count(world, ids) == 0, "the end of all messages")
    states = world.count_states(ids)
    require(states == {"sent": KILL_BACKLOG}, f"the messages ended as {dict(states)}")
    arrived = [recipient for arrival in world.emails_at(domain) for recipient in arrival.recipients]
    lost = set(recipients) - set(arrived)
    require(not lost, f"{len(lost)} never arrived")
    twice, bound = len(arrived) - KILL_BACKLOG, settings().outbox.max_unconfirmed
    require(twice <= bound, f"{twice} arrived twice; at most {bound} may be in flight")
    return Result(f"1,000, ≤ {bound} twice", f"{len(set(arrived)):,}, {twice} twice")


def _unfinished_count(world: DemoContext, ids: list[int]) -> int:
    return int(world.query("demo", "message_unfinished_count", ids=ids)[0]["unfinished"])


def dispatcher_processes(world: DemoContext, lane: str = LANE) -> Iterator[psutil.Process]:
    """The live processes of the dispatchers that hold messages of a lane, the busiest first: Airflow knows the task's."""
    for row in world.query("demo", "dispatcher_busiest", lane=lane):
        if not row["held_count"]:
            return
        dag_id, _, run_id = row["dag_run"].partition("/")
        try:
            task = world.airflow.task(dag_id, run_id, "dispatch")
            process = psutil.Process(int(task["pid"] or 0))
            title = " ".join(process.cmdline())
        except (Rejected, psutil.Error):
            continue
        # Airflow writes the start of the task's id into the process's title: nothing else must be killed.
        if task["state"] == "running" and str(task["id"])[:18] in title and process.pid != os.getpid():
            yield process
