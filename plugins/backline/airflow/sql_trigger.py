"""Tells Airflow to run a job when the app's rows have work for it: a statement that says so is asked every few seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from backline.errors import DatabaseFailure

log = logging.getLogger(__name__)

COOLDOWN_SECONDS = 10.0
"""After a ring, while the job starts and runs; then it rings again if something still waits. Rings may be lost."""
MAX_RETRY_DELAY_SECONDS = 30.0
MISSING_TABLE_RETRY_SECONDS = 15.0
"""Between two looks for a table that is not there; whoever has none pays for one refused statement."""


class SqlTrigger(BaseEventTrigger):
    """Fires when the statement's one row says `is_new`."""

    def __init__(self, file: str, name: str, poll_interval_seconds: float) -> None:
        """Statement `name` of `include/sql/<file>.sql`, asked every `poll_interval_seconds`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.file, self.name, self.poll_interval_seconds = file, name, poll_interval_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Its arguments."""
        arguments = {"file": self.file, "name": self.name, "look_seconds": self.poll_interval_seconds}
        return "backline.airflow.sql_trigger.RowBell", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every few seconds. Survives a database that is away, and one without the table."""
        pause, told = 1.0, ""
        while True:
            try:
                async for is_new in self._poll():
                    pause = 1.0
                    if is_new:
                        yield TriggerEvent({"rung_at": time.time()})  # type: ignore[no-untyped-call]
            except DatabaseFailure as exc:
                log.warning("bell %s: %s; looking again in %.0f s", self.name, exc, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_RETRY_DELAY_SECONDS)
            except Exception as exc:  # noqa: BLE001 - a trigger that raises is restarted every second, for ever
                if str(exc) != told:
                    told = str(exc)
                    log.info("bell %s: %s; looking again every %.0f s", self.name, told, MISSING_TABLE_RETRY_SECONDS)
                await asyncio.sleep(MISSING_TABLE_RETRY_SECONDS)

    async def _poll(self) -> AsyncIterator[bool]:
        # Here, not above: every task that parses the job's file would pay for them.
        from backline.airflow.connections import app_dsn_async
        from backline.db.connect import Database
        from backline.db.statements import statement

        database = Database(await app_dsn_async(), name=f"bell {self.name}", retry_timeout=0)
        quiet_until = 0.0
        try:
            while True:
                [row] = await database.fetch(statement(self.file, self.name))
                is_due = bool(row["is_new"]) and time.monotonic() >= quiet_until
                if is_due:
                    quiet_until = time.monotonic() + COOLDOWN_SECONDS
                yield is_due
                await asyncio.sleep(self.poll_interval_seconds)
        finally:
            await database.close()


def sql_schedule(asset: str, uri: str, trigger: SqlTrigger, cron: str) -> AssetOrTimeSchedule:
    """A schedule: when that bell rings, an event of the asset; and by cron for what waits, because rings may be lost."""
    rung = Asset(name=asset, uri=uri, watchers=[AssetWatcher(name=asset, trigger=trigger)])
    return AssetOrTimeSchedule(assets=rung, timetable=CronTriggerTimetable(cron, timezone="UTC"))
