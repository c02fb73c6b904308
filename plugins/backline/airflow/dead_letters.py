"""The tasks of the jobs about dead letters."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable

from backline.airflow.failure_trigger import FailureTrigger
from backline.channels.settings import EmailSettings
from backline.dead_letters.settings import DeadLetterSettings


def failure_schedule(cron: str) -> AssetOrTimeSchedule:
    """A schedule: when the failure bell rings, and by cron in case the triggerer is down."""
    bell = Asset(
        name="failure bell",
        uri="backline://bell/failures",
        watchers=[AssetWatcher(name="failure bell", trigger=FailureTrigger())],
    )
    return AssetOrTimeSchedule(assets=bell, timetable=CronTriggerTimetable(cron, timezone="UTC"))


def run_reconcile() -> dict[str, int]:
    """Write the dead letters of failures that nobody told of; returns counts."""
    from backline.airflow.connections import airflow_rest, app_dsn, base_url
    from backline.airflow.runs import AirflowRuns
    from backline.dead_letters.reconcile_dead_letters import reconcile_dead_letters
    from backline.dead_letters.store import DeadLetterStore

    with airflow_rest() as rest, DeadLetterStore.open(app_dsn()) as letters:
        return reconcile_dead_letters(letters, AirflowRuns(rest, base_url()), datetime.now(UTC)).as_dict()


def run_send_alerts() -> dict[str, int]:
    """Send the alert emails that are due; returns counts."""
    from backline.airflow.connections import app_dsn, base_url
    from backline.db.connect import session
    from backline.dead_letters.alerts import Alert, send_due_alerts
    from backline.settings import settings

    config = settings()

    def send(alert: Alert) -> None:
        _send_email(
            alert,
            config.section(EmailSettings).connection,
            config.section(EmailSettings).from_address,
            config.section(EmailSettings).message_id_domain,
        )

    with session(app_dsn(), name="alerts") as connection:
        return send_due_alerts(connection, config.alerts, base_url(), send).as_dict()


def run_purge(*, dry_run: bool) -> dict[str, Any]:
    """Archive and delete dead letters past their time or over the cap; returns the report."""
    from backline.airflow.connections import app_dsn
    from backline.dead_letters.purge_dead_letters import purge_dead_letters
    from backline.dead_letters.store import DeadLetterStore
    from backline.settings import resolve_folder, settings

    config = settings().section(DeadLetterSettings)
    with DeadLetterStore.open(app_dsn()) as letters:
        return purge_dead_letters(letters, config, resolve_folder(config.archive_folder), dry_run=dry_run).as_dict()


def _send_email(alert: Any, connection: str, from_address: str, domain: str) -> None:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier
    from airflow.sdk.exceptions import AirflowException

    from backline.errors import NetworkFailure

    notifier = SmtpNotifier(
        to=list(alert.to), from_email=from_address, subject=alert.subject, html_content=alert.html, smtp_conn_id=connection,
        # The hook sets none; far sides tell a repeated mail by it.
        custom_headers={"Message-ID": f"<{uuid.uuid4()}@{domain}>", "Auto-Submitted": "auto-generated"},
    )  # fmt: skip
    try:
        # Not by calling it: that would take the text, which holds others' words, for a template.
        notifier.notify({})
    except (OSError, AirflowException) as exc:
        raise NetworkFailure(f"alert email: {exc or type(exc).__name__}") from exc
