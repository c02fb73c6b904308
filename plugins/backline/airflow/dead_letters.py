"""The schedule of `reconcile_dead_letters`."""

from __future__ import annotations

from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable

from backline.airflow.failure_trigger import FailureTrigger


def failure_schedule(cron: str) -> AssetOrTimeSchedule:
    """A schedule: when the failure bell rings, and by cron in case the triggerer is down."""
    bell = Asset(
        name="failure bell",
        uri="backline://bell/failures",
        watchers=[AssetWatcher(name="failure bell", trigger=FailureTrigger())],
    )
    return AssetOrTimeSchedule(assets=bell, timetable=CronTriggerTimetable(cron, timezone="UTC"))
