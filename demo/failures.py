"""Dead letters: recorded once, reported by one email, replayed, and maintained by jobs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from backline.dead_letters.actions import replay
from backline.dead_letters.runs import AirflowRuns
from backline.dead_letters.store import DeadLetterStore
from backline.settings import settings
from demo.check import Check, Result, require, wait_until
from demo.context import DemoContext, Row
from demo.send_runs import run_result

FAILED_DAG, FAILED_RUN = "send_email", "model"
"""The run whose conf the model rejects; send_runs starts and checks it."""
RECONCILE_DAG, PURGE_DAG = "reconcile_dead_letters", "purge_dead_letters"
DEAD_LETTER_TIMEOUT_SECONDS = 60.0


def checks() -> list[Check]:
    """The checks; faults.permanent_fault_check, whose dead message is replayed here, comes before them."""
    return [
        Check("its dead letter is replayed, edited", _check_replay),
        Check("failed run: 1 dead letter, 1 alert", _check_alert),
        Check(f"{RECONCILE_DAG} runs", _check_reconcile),
        Check(f"{PURGE_DAG} runs dry", _check_purge),
    ]


def _check_replay(context: DemoContext) -> Result:
    require(len(context.dead) == 1, "there is no dead message to replay; see the previous check")
    [(message_id, recipient)] = context.dead.items()
    letter = _single_dead_letter(context, message_id=message_id)
    require("550" in letter["cause"], f"its cause lacks the server's code 550: {letter['cause']}")
    edited = {"subject": "Read after all", "text": "Corrected and sent again."}
    with DeadLetterStore.open(context.dsn) as letters:
        done = replay(letters, AirflowRuns(context.airflow, context.url), letter["id"], by="demo", edited=edited)
    kind, _, new_id = done.reference.partition(" ")
    require(kind == "message", f"it was replayed as {done.reference}")
    context.sent[int(new_id)] = recipient
    [arrival] = context.wait_for_emails(context.domain("gone"), 1)
    require(arrival.subject == edited["subject"], f"the subject that arrived is {arrival.subject!r}")
    after = _single_dead_letter(context, message_id=message_id)
    require(
        (after["state"], after["replay_ref"]) == ("replayed", done.reference),
        f"the dead letter is {after['state']} as {after['replay_ref']}",
    )
    return Result("1 replay, 1 email", "1 replay, 1 edited email")


def _check_alert(context: DemoContext) -> Result:
    run_id, alerts = context.run_id(FAILED_RUN), settings().alerts
    wait_until(lambda: _dead_letters(context, run_id=run_id), "the dead letter of the failed run")
    letter = _single_dead_letter(context, run_id=run_id)
    delay = float(letter["recorded_after_seconds"])
    require(delay < DEAD_LETTER_TIMEOUT_SECONDS, f"its dead letter was recorded {delay:.0f} s after it failed")
    if not alerts.recipients:
        return Result("recorded, no alert", f"after {delay:.1f} s, no recipient")
    window = timedelta(seconds=alerts.window_seconds)

    def find_alerted() -> Row | None:
        row = _single_dead_letter(context, run_id=run_id)
        if row["alerted_at"] is not None:
            return row
        # One email per group and window: an earlier demo may have used this window's.
        seen, emailed = row["first_seen_at"], row["emailed_at"]
        return row if emailed is not None and seen - window < emailed < seen else None

    row = wait_until(find_alerted, "the alert about the failed run")
    subjects = _alert_subjects(context, alerts.recipients[0])
    expected = 1 if row["emailed_at"] >= context.started_at else 0
    require(len(subjects) == expected, f"{len(subjects)} alerts arrived instead of {expected}: {', '.join(subjects)}")
    if row["alerted_at"] is None:
        ago = (row["first_seen_at"] - row["emailed_at"]).total_seconds() / 60
        return Result(f"1 email per {window.total_seconds() / 60:.0f} min", f"1, email {ago:.0f} min before")
    return Result("recorded, 1 email", f"after {delay:.1f} s, 1 email")


def _alert_subjects(context: DemoContext, recipient: str) -> list[str]:
    arrived = context.mail.list_emails(recipient, context.since)
    return [mail.subject for mail in arrived if mail.subject.startswith(f"[Backline] {FAILED_DAG}.send failed")]


def _check_reconcile(context: DemoContext) -> Result:
    before = _dead_letters(context, run_id=context.run_id(FAILED_RUN))
    run_id = context.run_id("reconcile")
    # Both start now, so that the next check does not wait.
    context.airflow.trigger(PURGE_DAG, {"dry_run": True}, context.run_id("purge"))
    context.airflow.trigger(RECONCILE_DAG, {}, run_id)
    report = run_result(context, RECONCILE_DAG, run_id, RECONCILE_DAG)
    require(report["failed_tasks"], "it found no failed task, but there is one")
    again = _dead_letters(context, run_id=context.run_id(FAILED_RUN))
    require(len(again) == len(before) == 1, f"the failed run has {len(again)} dead letters, had {len(before)}")
    return Result("no duplicate", f"{report['failed_tasks']} seen, 0 duplicates")


def _check_purge(context: DemoContext) -> Result:
    report = run_result(context, PURGE_DAG, context.run_id("purge"), PURGE_DAG)
    require(report["dry_run"] and not report["files"], f"a dry run wrote {report['files']}")
    present = int(context.query("dead_letters", "letter_count")[0]["letters"])
    before = report["letters"] + report["remaining"]
    require(present >= before, f"there were {before} dead letters before it, and now {present}")
    return Result("nothing deleted", f"{report['letters']} of {before} expired")


def _single_dead_letter(context: DemoContext, *, message_id: int | None = None, run_id: str | None = None) -> Row:
    found = _dead_letters(context, message_id=message_id, run_id=run_id)
    require(len(found) == 1, f"there are {len(found)} dead letters instead of 1")
    return found[0]


def _dead_letters(context: DemoContext, *, message_id: int | None = None, run_id: str | None = None) -> list[Row]:
    values: dict[str, Any] = {"message_id": message_id, "dag_id": FAILED_DAG, "run_id": run_id}
    return context.query("demo", "dead_letter_find", **values)
