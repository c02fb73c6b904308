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

from backline.db.session import Session
from backline.db.statements import statement
from backline.errors import BacklineError
from backline.settings import ROOT, AlertSettings

log = logging.getLogger(__name__)

GROUPS_AT_MOST = 50
"""Mails of one round; the others wait for the next."""
SHOWN = 10
"""Failures that a mail lists; the others are counted."""
PUT_OFF_SECONDS = 60.0
LATE = "late "
FOLDER = ROOT / "include" / "templates" / "alerts"


@dataclass(frozen=True, slots=True)
class Alert:
    """One email."""

    to: tuple[str, ...]
    subject: str
    html: str


@dataclass(slots=True)
class AlertReport:
    """What a round did."""

    mails: int = 0
    failures: int = 0
    put_off: int = 0

    def as_dict(self) -> dict[str, int]:
        """For XCom and people."""
        return asdict(self)


def due(connection: Session, most: int = GROUPS_AT_MOST) -> list[str]:
    """Keys of the groups that have something to tell and may."""
    return [row["key"] for row in connection.execute(statement("dead_letters", "alert_due"), {"most": most}).fetchall()]


def send_due(connection: Session, config: AlertSettings, url: str, send: Callable[[Alert], None]) -> AlertReport:
    """Send what is due; `url` is Airflow's base URL, for the links.

    A mail that cannot be sent (a BacklineError of `send`) is put off and is no failure of ours: an alert about alerts
    would have no end.
    """
    report = AlertReport()
    if not config.recipients:
        return report
    for key in due(connection):
        # By itself: inside, a second sender would wait for the first one's mail.
        connection.execute(statement("dead_letters", "alert_group_ensure"), {"key": key})
        try:
            with connection.transaction():
                told = _send_group(connection, key, config, url, send)
        except BacklineError as exc:
            log.warning("alert %r could not be sent, again in %.0f s: %s", key, PUT_OFF_SECONDS, exc)
            values = {"key": key, "seconds": PUT_OFF_SECONDS}
            connection.execute(statement("dead_letters", "alert_group_put_off"), values)
            report.put_off += 1
            continue
        report.mails += told > 0
        report.failures += told
    return report


def _send_group(connection: Session, key: str, config: AlertSettings, url: str, send: Callable[[Alert], None]) -> int:
    if not (claimed := connection.execute(statement("dead_letters", "alert_group_claim"), {"key": key}).fetchall()):
        return 0
    take = "alert_take_late" if key.startswith(LATE) else "alert_take"
    rows = connection.execute(statement("dead_letters", take), {"key": key, "most": SHOWN}).fetchall()
    if not rows:
        return 0
    send(compose(key, rows, claimed[0], config, url))
    values = {"key": key, "window_seconds": config.window_seconds}
    connection.execute(statement("dead_letters", "alert_group_sent"), values)
    return int(rows[0]["failures"])


def compose(
    key: str, rows: Sequence[Mapping[str, Any]], group: Mapping[str, Any], config: AlertSettings, url: str
) -> Alert:
    """The mail about one group; `rows` are its latest failures, each with the counts of all."""
    latest, count = rows[0], int(rows[0]["failures"])
    if key.startswith(LATE):
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
        what=what, count=count, rows=rows, latest=latest, late=key.startswith(LATE), mailed_at=group["mailed_at"],
        window_minutes=round(config.window_seconds / 60), url=url.rstrip("/"), more=count - len(rows),
    )  # fmt: skip
    return Alert(config.recipients, " ".join(subject.split())[:200], html)


@lru_cache(maxsize=1)
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("failure.html")
