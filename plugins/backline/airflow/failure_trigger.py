"""Tells Airflow to run `reconcile_dead_letters` when there is something for it: a failure untold, or an alert due.

Two cheap requests and two queries every few seconds, so that a failure is told of within seconds; the job's own cron is
there for the case that the triggerer is down. The same loop fires the webhook events of jobs (`job_events`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from backline.dead_letters.settings import DeadLetterSettings
from backline.errors import BacklineError
from backline.settings import Settings, settings

if TYPE_CHECKING:
    from backline.airflow.job_events import JobEventPublisher

log = logging.getLogger(__name__)

COOLDOWN_SECONDS = 10.0
"""After a ring, while the job starts and runs; then it rings again if the job has not run. Events may be lost."""
MAX_RETRY_DELAY_SECONDS = 30.0


class FailureTrigger(BaseEventTrigger):
    """Fires when a run has newly failed, a DAG file newly cannot be imported or can again, or an alert is due."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """It has no arguments."""
        return "backline.airflow.failure_trigger.FailureBell", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every few seconds. Survives a database or an API that is away."""
        pause = 1.0
        while True:
            try:
                async for due in _poll(settings()):
                    pause = 1.0
                    if due:
                        yield TriggerEvent({"rung_at": time.time()})  # type: ignore[no-untyped-call]
            except Exception as exc:  # noqa: BLE001 - a trigger that raises is restarted every second, for ever
                log.warning("failure bell: %s; looking again in %.0f s", exc, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_RETRY_DELAY_SECONDS)


async def _fire_job_events(events: JobEventPublisher) -> None:
    try:
        await events.poll()
    except BacklineError as exc:
        # Failures are told of whatever becomes of webhooks; the next look fires for what this one has missed.
        log.warning("job events: %s", exc)


async def _poll(config: Settings) -> AsyncIterator[bool]:
    # Here, not above: every task that parses the job's file would pay for them.
    from backline.airflow.connections import airflow_rest_async, app_dsn_async, base_url
    from backline.airflow.job_events import JobEventPublisher
    from backline.airflow.runs import failure_fingerprint
    from backline.db.connect import Database
    from backline.db.statements import statement
    from backline.dead_letters.reconcile_dead_letters import CURSOR

    database = Database(await app_dsn_async(), name="failure bell", retry_timeout=0)
    seen: tuple[object, ...] | None = None
    changed_at = datetime.now(UTC)
    quiet_until = 0.0
    try:
        with await airflow_rest_async() as rest:
            events = JobEventPublisher(rest, database, base_url())
            while True:
                await _fire_job_events(events)
                now = await asyncio.to_thread(failure_fingerprint, rest)
                if now != seen:
                    seen, changed_at = now, datetime.now(UTC)
                cursor = await database.fetch(statement("dead_letters", "cursor_get"), {"name": CURSOR})
                unread = not cursor or cursor[0]["at"] < changed_at
                alerts = config.alerts.recipients and await database.fetch(
                    statement("dead_letters", "alert_due"), {"batch_limit": 1}
                )
                due = bool(unread or alerts) and time.monotonic() >= quiet_until
                if due:
                    quiet_until = time.monotonic() + COOLDOWN_SECONDS
                yield due
                await asyncio.sleep(config.section(DeadLetterSettings).poll_interval_seconds)
    finally:
        await database.close()
