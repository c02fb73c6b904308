"""The one polling trigger: starts DAGs when a lane needs a dispatcher, an app's rows have work, or something has failed.

All triggers share one stream: per triggerer one database connection and one REST client serve every watch
(`backline.airflow.watches`). An event only wakes a DAG. Airflow may merge or lose events; the rows are the truth, and
a watch fires again while there is work.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from typing import Any

from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from backline.errors import Misconfigured
from backline.settings import settings

FAILURE_WATCH = "airflow.failures"
"""The watch for failed runs, import errors and due alerts. SQL watches ([watches] in backline.toml) have no dot."""
WATCH_URI = "backline://watch/{}"

_subscribers: Counter[str] = Counter()
"""Running triggers of this process by watch: the poller skips watches that start no DAG."""


def lane_watch(lane: str) -> str:
    """The name of a lane's watch."""
    return f"lane.{lane}"


def watch_schedule(watch: str, cron: str) -> AssetOrTimeSchedule:
    """A schedule: run when the watch fires, and by `cron` (UTC) in case the triggerer is down or an event was lost."""
    known = (FAILURE_WATCH, *map(lane_watch, settings().lanes), *settings().watches)
    if watch not in known:
        raise Misconfigured(
            f"watch {watch!r} is unknown; add [watches.{watch}] to backline.toml, or use one of: {known}"
        )
    watcher = AssetWatcher(name=watch, trigger=PollTrigger(watch))
    asset = Asset(name=watch, uri=WATCH_URI.format(watch), watchers=[watcher])
    return AssetOrTimeSchedule(assets=asset, timetable=CronTriggerTimetable(cron, timezone="UTC"))


class PollTrigger(BaseEventTrigger):
    """Fires when its watch finds work and the poller could not post the asset event itself."""

    def __init__(self, watch: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = watch

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The watch is an argument: triggers with equal arguments share one row, and an event would start all their DAGs."""
        return "backline.airflow.poller.PollTrigger", {"watch": self.watch}

    def shared_stream_key(self) -> Hashable:
        """All watches share one stream."""
        return ("backline", "poller")

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[frozenset[str]]:  # noqa: ARG003 - Airflow's signature
        """Poll all watches that have a trigger; yields those that fire and whose asset event was not posted. Never raises."""
        # Here, not above: every task that parses a DAG file with a watch would pay for it.
        from backline.airflow.watches import poll_and_post

        async for unposted in poll_and_post(settings(), _subscribers):
            yield unposted

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """This watch's events."""
        _subscribers[self.watch] += 1
        try:
            async for fired in shared_stream:
                if self.watch in fired:
                    yield TriggerEvent({"watch": self.watch, "fired_at": time.time()})  # type: ignore[no-untyped-call]
        finally:
            _subscribers[self.watch] -= 1

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The same without sharing, for a triggerer that cannot share streams."""
        async for event in self.filter_shared_stream(self.open_shared_stream({})):
            yield event
