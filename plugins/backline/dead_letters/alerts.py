"""Emails about failures: one a group (what, where, class) and window, however many failed; each failure is told of once.

What was told stands in the table: a group is claimed under a lock that is held while its mail goes out, so two at once
send one mail, and a mail that could not be sent is sent later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from backline.db.connect import Session
from backline.db.statements import statement
from backline.errors import BacklineError
from backline.settings import ROOT, AlertSettings

log = logging.getLogger(__name__)

GROUP_LIMIT = 50
"""Mails of one round; the others wait for the next."""
MAX_LISTED_FAILURES = 10
"""Failures that a mail lists; the others are counted."""
RETRY_DELAY_SECONDS = 60.0
LATE_KEY_PREFIX = "late "
TEMPLATE_FOLDER = ROOT / "include" / "templates" / "alerts"


@dataclass(frozen=True, slots=True)
class Alert:
    """One email."""

    to: tuple[str, ...]
    subject: str
    html: str


@dataclass(slots=True)
class AlertReport:
    """What a round did."""

    emails: int = 0
    failures: int = 0
    deferred: int = 0

    def as_dict(self) -> dict[str, int]:
        """For XCom and people."""
        return asdict(self)


def due_groups(connection: Session, limit: int = GROUP_LIMIT) -> list[str]:
    """Keys of the groups that have something to tell and may."""
    return [
        row["key"]
        for row in connection.execute(statement("dead_letters", "alert_due"), {"batch_limit": limit}).fetchall()
    ]


def send_due_alerts(connection: Session, config: AlertSettings, url: str, send: Callable[[Alert], None]) -> AlertReport:
    """Send what is due; `url` is Airflow's base URL, for the links.

    A mail that cannot be sent (a BacklineError of `send`) is put off and is no failure of ours: an alert about alerts
    would have no end.
    """
    report = AlertReport()
    if not config.recipients:
        return report
    for key in due_groups(connection):
        # By itself: inside, a second sender would wait for the first one's mail.
        connection.execute(statement("dead_letters", "alert_group_ensure"), {"key": key})
        try:
            with connection.transaction():
                told = _send_group(connection, key, config, url, send)
        except BacklineError as exc:
            log.warning("alert %r could not be sent, again in %.0f s: %s", key, RETRY_DELAY_SECONDS, exc)
            values = {"key": key, "delay_seconds": RETRY_DELAY_SECONDS}
            connection.execute(statement("dead_letters", "alert_group_defer"), values)
            report.deferred += 1
            continue
        report.emails += told > 0
        report.failures += told
    return report


def _send_group(connection: Session, key: str, config: AlertSettings, url: str, send: Callable[[Alert], None]) -> int:
    if not (claimed := connection.execute(statement("dead_letters", "alert_group_claim"), {"key": key}).fetchall()):
        return 0
    take = "alert_late_runs_claim" if key.startswith(LATE_KEY_PREFIX) else "alert_failures_claim"
    rows = connection.execute(
        statement("dead_letters", take), {"key": key, "batch_limit": MAX_LISTED_FAILURES}
    ).fetchall()
    if not rows:
        return 0
    send(compose_alert(key, rows, claimed[0], config, url))
    values = {"key": key, "window_seconds": config.window_seconds}
    connection.execute(statement("dead_letters", "alert_group_sent"), values)
    return int(rows[0]["failures"])


def compose_alert(
    key: str, rows: Sequence[Mapping[str, Any]], group: Mapping[str, Any], config: AlertSettings, url: str
) -> Alert:
    """The mail about one group; `rows` are its latest failures, each with the counts of all."""
    latest, count = rows[0], int(rows[0]["failures"])
    if key.startswith(LATE_KEY_PREFIX):
        what = f"{latest['dag_id']} is late"
    elif latest["kind"] == "message":
        what = f"message {latest['name']} is dead ({latest['class']})"
    elif latest["kind"] == "import":
        what = f"{latest['name']} cannot be imported"
    else:
        where = f"{latest['name']}.{latest['task_id']}" if latest["task_id"] else latest["name"]
        what = f"{where} failed ({latest['class']})"
    subject = f"[Backline] {what}" + (f", {count} times" if count > 1 else "")
    html = _template().render(
        what=what, count=count, rows=rows, latest=latest, late=key.startswith(LATE_KEY_PREFIX), emailed_at=group["emailed_at"],
        window_minutes=round(config.window_seconds / 60), url=url.rstrip("/"), more=count - len(rows),
    )  # fmt: skip
    return Alert(config.recipients, " ".join(subject.split())[:200], html)


@lru_cache(maxsize=1)
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("failure.html")
