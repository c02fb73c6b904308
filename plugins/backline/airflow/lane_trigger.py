"""The doorbell: tells Airflow to start a dispatcher for a lane that needs one.

All lanes share one look at the outbox (a shared stream in the triggerer). A ring is an asset event: the scheduler
starts the lane's `dispatch_*` DAG. Events may be lost or merged; the rows are the truth, and it rings again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Hashable
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from backline.settings import Settings, settings

if TYPE_CHECKING:
    from backline.outbox.lane_trigger import LaneStatus

log = logging.getLogger(__name__)

RESCUE_INTERVAL_SECONDS = 1.0
MAX_RETRY_DELAY_SECONDS = 5.0


class LaneTrigger(BaseEventTrigger):
    """Fires when its lane needs a dispatcher."""

    def __init__(self, lane: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lane = lane

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The lane is an argument, so that no two lanes share a trigger row (each would ring all)."""
        return "backline.airflow.lane_trigger.Doorbell", {"lane": self.lane}

    def shared_stream_key(self) -> Hashable:
        """All lanes share one stream."""
        return ("backline", "doorbell")

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[dict[str, LaneStatus]]:  # noqa: ARG003 - Airflow's signature
        """Look at the outbox a few times a second; yields the lanes to ring. Survives a database that is away."""
        pause = 1.0
        while True:
            try:
                async for due in _poll(settings()):
                    pause = 1.0
                    yield due
            except Exception as exc:  # noqa: BLE001 - a trigger that raises is restarted every second, for ever
                log.warning("doorbell: %s; looking again in %.0f s", exc, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_RETRY_DELAY_SECONDS)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """This lane's rings."""
        async for due in shared_stream:
            if (view := due.get(self.lane)) is not None:
                payload = {"lane": self.lane, "pending": view.pending, "rung_at": time.time()}
                yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The same without sharing, for a triggerer that cannot share streams."""
        async for event in self.filter_shared_stream(self.open_shared_stream({})):
            yield event


async def _poll(config: Settings) -> AsyncIterator[dict[str, LaneStatus]]:
    # Here, not above: every task that parses a dispatch DAG would pay for them.
    from backline.airflow.connections import app_dsn_async
    from backline.db.connect import Database
    from backline.outbox.lane_trigger import LaneStatus, WakeupPolicy, backlog_count_limit
    from backline.outbox.store import Store

    database = Database(await app_dsn_async(), name="doorbell", retry_timeout=0)
    store = Store(database)
    ringer = WakeupPolicy(config.lanes, config.lane_trigger.cooldown_seconds)
    timeout = config.outbox.heartbeat_timeout_seconds
    live: dict[str, int] = {}
    next_rescue = 0.0
    try:
        while True:
            now = time.monotonic()
            if now >= next_rescue:
                next_rescue = now + RESCUE_INTERVAL_SECONDS
                await store.rescue(config.outbox.max_rescues, timeout)
                await store.expire()
            await store.promote()
            most = {name: backlog_count_limit(lane, live.get(name, 0)) for name, lane in config.lanes.items()}
            views = [LaneStatus(**row) for row in await store.lane_status(most, timeout)]
            live = {view.lane: view.live_dispatchers for view in views}
            if due := ringer.lanes_to_wake(views, time.monotonic()):
                yield due
            await asyncio.sleep(config.lane_trigger.poll_interval_seconds)
    finally:
        await store.close()
