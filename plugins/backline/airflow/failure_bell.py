"""Tells Airflow to run `reconcile_dead_letters` when there is something for it: a failure untold, or an alert due.

Two cheap requests and one query every few seconds, so that a failure is told of within seconds; the job's own cron is
there for the case that the triggerer is down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from backline.settings import settings

log = logging.getLogger(__name__)

SILENCE_SECONDS = 15.0
"""After a ring for an alert, while the job starts and runs."""
SLOWEST_RETRY_SECONDS = 30.0


class FailureBell(BaseEventTrigger):
    """Fires when a run has newly failed, a DAG file newly cannot be imported or can again, or an alert is due."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """It has no arguments."""
        return "backline.airflow.failure_bell.FailureBell", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every few seconds. Survives a database or an API that is away."""
        seen: tuple[object, ...] | None = None
        quiet_until = 0.0
        pause = settings().dead_letters.look_seconds
        while True:
            try:
                now = await asyncio.to_thread(_fingerprint_now)
                alerts = time.monotonic() >= quiet_until and await asyncio.to_thread(_alerts_due)
                if now != seen or alerts:
                    seen, quiet_until = now, time.monotonic() + SILENCE_SECONDS
                    yield TriggerEvent({"rung_at": time.time()})  # type: ignore[no-untyped-call]
                pause = settings().dead_letters.look_seconds
            except Exception as exc:  # noqa: BLE001 - a trigger that raises is restarted every second, for ever
                pause = min(pause * 2, SLOWEST_RETRY_SECONDS)
                log.warning("failure bell: %s; looking again in %.0f s", exc, pause)
            await asyncio.sleep(pause)


def _fingerprint_now() -> tuple[object, ...]:
    from backline.airflow.connections import airflow_rest
    from backline.airflow.runs import fingerprint

    with airflow_rest() as rest:
        return fingerprint(rest)


def _alerts_due() -> bool:
    from backline.airflow.connections import app_dsn
    from backline.db.session import session
    from backline.dead_letters.alerts import due

    if not settings().alerts.recipients:
        return False
    with session(app_dsn(), name="failure bell") as connection:
        return bool(due(connection, 1))
