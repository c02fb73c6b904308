"""Tells Airflow to run `ingest_payment_webhook` when a provider has told something that nobody has looked at yet."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from backline.errors import DatabaseFailure
from backline.settings import settings

log = logging.getLogger(__name__)

SILENCE_SECONDS = 10.0
"""After a ring, while the job starts and runs; then it rings again if an event still waits. Rings may be lost."""
SLOWEST_RETRY_SECONDS = 30.0
NO_TABLE_SECONDS = 300.0


class PaymentBell(BaseEventTrigger):
    """Fires when an event of a payment provider is new."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """It has no arguments."""
        return "backline.airflow.payment_bell.PaymentBell", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every few seconds. Survives a database that is away, and one without the table."""
        pause = 1.0
        while True:
            try:
                async for is_new in _look(settings().payments.look_seconds):
                    pause = 1.0
                    if is_new:
                        yield TriggerEvent({"rung_at": time.time()})  # type: ignore[no-untyped-call]
            except DatabaseFailure as exc:
                log.warning("payment bell: %s; looking again in %.0f s", exc, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, SLOWEST_RETRY_SECONDS)
            except Exception as exc:  # noqa: BLE001 - a trigger that raises is restarted every second, for ever
                log.info("payment bell: %s; looking again in %.0f s", exc, NO_TABLE_SECONDS)
                await asyncio.sleep(NO_TABLE_SECONDS)


def on_payment_events(cron: str) -> AssetOrTimeSchedule:
    """A schedule: when the payment bell rings, and by cron for events that wait."""
    bell = Asset(
        name="payment bell",
        uri="backline://bell/payments",
        watchers=[AssetWatcher(name="payment bell", trigger=PaymentBell())],
    )
    return AssetOrTimeSchedule(assets=bell, timetable=CronTriggerTimetable(cron, timezone="UTC"))


async def _look(interval: float) -> AsyncIterator[bool]:
    # Here, not above: every task that parses the job's file would pay for them.
    from backline.airflow.connections import app_dsn_async
    from backline.db.connect import Database
    from backline.db.statements import statement

    database = Database(await app_dsn_async(), name="payment bell", patience=0)
    quiet_until = 0.0
    try:
        while True:
            [row] = await database.fetch(statement("payments", "event_is_new"))
            is_due = bool(row["is_new"]) and time.monotonic() >= quiet_until
            if is_due:
                quiet_until = time.monotonic() + SILENCE_SECONDS
            yield is_due
            await asyncio.sleep(interval)
    finally:
        await database.close()
