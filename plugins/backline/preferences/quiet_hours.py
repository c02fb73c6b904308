"""Quiet hours in a recipient's time zone: pure functions of the given time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones


class QuietHours(NamedTuple):
    """From one time of day to another, over midnight if the start is later than the end. Equal times mean none."""

    start: time
    end: time

    def __str__(self) -> str:
        return f"{self.start:%H:%M} to {self.end:%H:%M}"


def parse_quiet_hours(text: str) -> QuietHours:
    """`21:00-08:00`; ValueError for anything else."""
    start, dash, end = text.partition("-")
    try:
        if dash:
            return QuietHours(_parse_time(start), _parse_time(end))
    except ValueError:
        pass
    raise ValueError(f'{text!r} must be two times of the day such as "21:00-08:00"')


def quiet_period_end(now: datetime, hours: QuietHours, zone: ZoneInfo) -> datetime | None:
    """The end of the quiet hours at `now`, or None; an end that a clock change skips is late by that time, never early."""
    local = now.astimezone(zone)
    clock = local.time()
    after_start, before_end = clock >= hours.start, clock < hours.end
    overnight = hours.start > hours.end
    if not (after_start or before_end if overnight else after_start and before_end):
        return None
    day = local.date() if clock < hours.end else local.date() + timedelta(days=1)
    return _local_time_after(day, hours.end, zone, now)


def next_day_start(now: datetime, zone: ZoneInfo) -> datetime:
    """When the next day begins in the zone."""
    return _local_time_after(now.astimezone(zone).date() + timedelta(days=1), time(0), zone, now)


def find_time_zone(name: str) -> ZoneInfo | None:
    """A zone of the IANA database by its name, in any case, or None if there is none; `key` is its name there."""
    canonical = zone_names().get(name.lower())
    return None if canonical is None else _zone(canonical)


@cache
def _zone(canonical: str) -> ZoneInfo:
    return ZoneInfo(canonical)


@cache
def zone_names() -> Mapping[str, str]:
    """The zones' names, by their lower-case form."""
    return {name.lower(): name for name in sorted(available_timezones())}


def _local_time_after(day: date, clock: time, zone: ZoneInfo, after: datetime) -> datetime:
    """The local time on that day as UTC; of two such times, the first one later than `after`."""
    times = [datetime.combine(day, clock.replace(fold=fold), zone).astimezone(UTC) for fold in (0, 1)]
    later = [at for at in times if at > after and at.astimezone(zone).time() == clock]
    return min(later, default=times[0])  # a skipped time: as if the clock had not been changed


def _parse_time(text: str) -> time:
    if len(text.strip()) != len("21:00"):
        raise ValueError
    return time.fromisoformat(text.strip())
