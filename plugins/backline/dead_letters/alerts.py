"""Failure alert emails: one for each group of failures (kind, name, task, class) and time window, with a count.

Each failure is reported in exactly one email. Claims are rows of the database, locked while the email is sent: two
senders at the same time send one email, and an email that could not be sent is sent later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import psycopg
from jinja2 import Template

from backline.dead_letters.failures import format_cause
from backline.dead_letters.store import DeadLetterStore, Row
from backline.rendering.html import create_html_environment
from backline.settings import ROOT, AlertSettings

if TYPE_CHECKING:
    from backline.dead_letters.settings import DeadLetterSettings
    from backline.jobs.job import Job

log = logging.getLogger(__name__)

GROUP_LIMIT = 50
"""Emails per call; further groups wait for the next call."""
MAX_LISTED_FAILURES = 10
"""Failures that an email lists; the others are counted."""
RETRY_DELAY_SECONDS = 60.0
LATE_KEY_PREFIX = "late "


@dataclass(frozen=True, slots=True)
class Alert:
    """One email."""

    to: tuple[str, ...]
    subject: str
    html: str


@dataclass(slots=True)
class AlertReport:
    """What a call of `send_due_alerts` did."""

    emails: int = 0
    failures: int = 0
    deferred: int = 0


@dataclass(frozen=True, slots=True)
class AlertSender:
    """How alerts are sent, and to whom."""

    config: AlertSettings
    url: str
    """Airflow's base URL, for links."""
    send: Callable[[Alert], None]
    """Raises a BacklineError if the email could not be sent."""


def send_due_alerts(job: Job[DeadLetterSettings]) -> AlertReport:
    """Send the alerts that are due.

    An email that could not be sent is deferred and does not count as a failure: alerts about alerts would never end.
    """
    report, store, sender = AlertReport(), DeadLetterStore(job.database), job.clients.alert_sender()
    if not sender.config.recipients:
        return report
    for row in store.fetch("alert_due", {"batch_limit": GROUP_LIMIT}):
        key = str(row["key"])
        # In a transaction of its own: inside the next one, a second sender would wait for the first one's email.
        store.fetch("alert_group_ensure", {"key": key})
        try:
            with store.connection.transaction():
                failures = _send_group(store, key, sender)
        except psycopg.OperationalError:
            raise
        except Exception as exc:  # noqa: BLE001 - the other groups' alerts do not depend on it
            log.warning("alert %r could not be sent, retry in %.0f s: %s", key, RETRY_DELAY_SECONDS, format_cause(exc))
            store.fetch("alert_group_defer", {"key": key, "delay_seconds": RETRY_DELAY_SECONDS})
            report.deferred += 1
            continue
        report.emails += failures > 0
        report.failures += failures
    return report


def _send_group(store: DeadLetterStore, key: str, sender: AlertSender) -> int:
    """Send one group's email; returns how many failures it reports."""
    if not (claimed := store.fetch("alert_group_claim", {"key": key})):
        return 0
    claim = "alert_late_runs_claim" if key.startswith(LATE_KEY_PREFIX) else "alert_failures_claim"
    rows = store.fetch(claim, {"key": key, "batch_limit": MAX_LISTED_FAILURES})
    if not rows:
        return 0
    sender.send(compose_alert(key, rows, claimed[0], sender))
    store.fetch("alert_group_sent", {"key": key, "window_seconds": sender.config.window_seconds})
    return int(rows[0]["failures"])


def compose_alert(key: str, rows: Sequence[Row], group: Row, sender: AlertSender) -> Alert:
    """The email about one group; `rows` are its latest failures, each with the counts of the whole group."""
    latest, count, is_late = rows[0], int(rows[0]["failures"]), key.startswith(LATE_KEY_PREFIX)
    what = _describe(latest, is_late=is_late)
    subject = f"[Backline] {what}" + (f", {count} times" if count > 1 else "")
    html = _template().render(
        what=what, count=count, rows=rows, latest=latest, late=is_late, emailed_at=group["emailed_at"],
        window_minutes=round(sender.config.window_seconds / 60), url=sender.url.rstrip("/"), more=count - len(rows),
    )  # fmt: skip
    return Alert(sender.config.recipients, " ".join(subject.split())[:200], html)


def _describe(failure: Mapping[str, object], *, is_late: bool) -> str:
    if is_late:
        return f"{failure['dag_id']} is late"
    if failure["kind"] == "message":
        return f"message {failure['name']} is dead ({failure['class']})"
    if failure["kind"] == "import":
        return f"{failure['name']} cannot be imported"
    if failure["kind"] == "item":
        return f"an item of {failure['name']} failed ({failure['class']})"
    task = f".{failure['task_id']}" if failure["task_id"] else ""
    return f"{failure['name']}{task} failed ({failure['class']})"


@lru_cache(maxsize=1)
def _template() -> Template:
    return create_html_environment(ROOT / "include" / "templates" / "alerts").get_template("failure.html")
