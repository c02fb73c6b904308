"""What failed for good: written down once, told of by one mail, replayed, looked after by Airflow's own runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from backline.airflow.runs import AirflowRuns
from backline.dead_letters.actions import replay
from backline.dead_letters.store import DeadLetterStore
from backline.settings import settings
from demo.check import Check, Result, require, wait_until
from demo.context import DemoContext, Row
from demo.send_runs import run_result

FAILED_DAG, FAILED_RUN = "send_email", "model"
"""The run whose conf the model refuses: started, and judged, among the sends."""
RECONCILE_DAG, PURGE_DAG = "reconcile_dead_letters", "purge_dead_letters"
DEAD_LETTER_TIMEOUT_SECONDS = 60.0


def checks() -> list[Check]:
    """After `trouble.permanent`, whose dead message is replayed here."""
    return [
        Check("that dead letter, replayed edited", _check_replay),
        Check("a failed run: 1 dead letter, 1 alert", _check_alert),
        Check(f"{RECONCILE_DAG} by REST", _check_reconcile),
        Check(f"{PURGE_DAG}, dry run by REST", _check_purge),
    ]


def _check_replay(world: DemoContext) -> Result:
    require(len(world.dead) == 1, "there is no dead message to replay; see the check before")
    [(message_id, recipient)] = world.dead.items()
    letter = _single_dead_letter(world, message_id=message_id)
    require("550" in letter["cause"], f"its cause does not hold the server's 550: {letter['cause']}")
    edited = {"subject": "Read after all", "text": "Mended and sent again."}
    with DeadLetterStore.open(world.dsn) as letters:
        done = replay(letters, AirflowRuns(world.airflow, world.url), letter["id"], by="demo", edited=edited)
    what, _, new_id = done.reference.partition(" ")
    require(what == "message", f"it was replayed as {done.reference}")
    world.sent[int(new_id)] = recipient
    [arrival] = world.wait_for_emails(world.domain("gone"), 1)
    require(arrival.subject == edited["subject"], f"the subject that arrived is {arrival.subject!r}")
    after = _single_dead_letter(world, message_id=message_id)
    require(
        (after["state"], after["replay_ref"]) == ("replayed", done.reference),
        f"the letter is {after['state']}, as {after['replay_ref']}",
    )
    return Result("1 letter, 1 mail", "1 letter, 1 mail, edited")


def _check_alert(world: DemoContext) -> Result:
    run_id, alerts = world.run_id(FAILED_RUN), settings().alerts
    wait_until(lambda: _dead_letters(world, run_id=run_id), "the dead letter of the failed run")
    letter = _single_dead_letter(world, run_id=run_id)
    after = float(letter["recorded_after_seconds"])
    require(after < DEAD_LETTER_TIMEOUT_SECONDS, f"its dead letter was written {after:.0f} s after it failed")
    if not alerts.recipients:
        return Result("1 letter, no alert", f"after {after:.1f} s, nobody to tell")
    window = timedelta(seconds=alerts.window_seconds)

    def settled() -> Row | None:
        now = _single_dead_letter(world, run_id=run_id)
        if now["alerted_at"] is not None:
            return now
        # One mail a group and window: a demo shortly before has had this one's.
        seen, mailed = now["first_seen_at"], now["emailed_at"]
        return now if mailed is not None and seen - window < mailed < seen else None

    now = wait_until(settled, "the alert about the failed run")
    mails = _alert_subjects(world, alerts.recipients[0])
    wanted = 1 if now["emailed_at"] >= world.started_at else 0
    require(len(mails) == wanted, f"{len(mails)} alerts arrived instead of {wanted}: {', '.join(mails)}")
    if now["alerted_at"] is None:
        ago = (now["first_seen_at"] - now["emailed_at"]).total_seconds() / 60
        return Result(f"1, mail each {window.total_seconds() / 60:.0f} min", f"1, mail {ago:.0f} min before")
    return Result("1 letter, 1 mail", f"after {after:.1f} s, 1 mail")


def _alert_subjects(world: DemoContext, recipient: str) -> list[str]:
    arrived = world.mail.list_emails(recipient, world.since)
    return [mail.subject for mail in arrived if mail.subject.startswith(f"[Backline] {FAILED_DAG}.send failed")]


def _check_reconcile(world: DemoContext) -> Result:
    before = _dead_letters(world, run_id=world.run_id(FAILED_RUN))
    run_id = world.run_id("reconcile")
    # Both at once, so that the next check need not wait.
    world.airflow.trigger(PURGE_DAG, {"dry_run": True}, world.run_id("purge"))
    world.airflow.trigger(RECONCILE_DAG, {}, run_id)
    report = run_result(world, RECONCILE_DAG, run_id, RECONCILE_DAG)
    require(report["failed_tasks"], "it has seen no failed task, and there is one")
    again = _dead_letters(world, run_id=world.run_id(FAILED_RUN))
    require(len(again) == len(before) == 1, f"the failed run has {len(again)} dead letters, had {len(before)}")
    return Result("success, none twice", f"success, {report['failed_tasks']} seen, 0 twice")


def _check_purge(world: DemoContext) -> Result:
    report = run_result(world, PURGE_DAG, world.run_id("purge"), PURGE_DAG)
    require(report["dry_run"] and not report["files"], f"a dry run has written {report['files']}")
    there = int(world.query("dead_letters", "letter_count")[0]["letters"])
    counted = report["letters"] + report["remaining"]
    require(there >= counted, f"there were {counted} dead letters before it, and are {there}")
    return Result("nothing is deleted", f"{report['letters']} of {counted} would go")


def _single_dead_letter(world: DemoContext, *, message_id: int | None = None, run_id: str | None = None) -> Row:
    found = _dead_letters(world, message_id=message_id, run_id=run_id)
    require(len(found) == 1, f"there are {len(found)} dead letters instead of 1")
    return found[0]


def _dead_letters(world: DemoContext, *, message_id: int | None = None, run_id: str | None = None) -> list[Row]:
    values: dict[str, Any] = {"message_id": message_id, "dag_id": FAILED_DAG, "run_id": run_id}
    return world.query("demo", "dead_letter_find", **values)
