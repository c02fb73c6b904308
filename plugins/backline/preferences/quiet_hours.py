"""Quiet hours on a person's own clock: pure functions of the time given."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo


class QuietHours(NamedTuple):
    """From one time of the day until another; over midnight if it begins later than it ends. Two equal times: none."""

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
    """When the quiet time ends that `now` lies in, later than `now`; None if it lies in none.

    By the clock on the wall: an hour that comes twice is quiet twice. An end that a change of the clock skips is late by
    as much as was skipped, never early.
    """
    local = now.astimezone(zone)
    clock = local.time()
    begun, not_over = clock >= hours.start, clock < hours.end
    overnight = hours.start > hours.end
    if not (begun or not_over if overnight else begun and not_over):
        return None
    day = local.date() if clock < hours.end else local.date() + timedelta(days=1)
    return _local_time_after(day, hours.end, zone, now)


def next_day_start(now: datetime, zone: ZoneInfo) -> datetime:
    """When the day after that of `now` begins in the zone."""
    return _local_time_after(now.astimezone(zone).date() + timedelta(days=1), time(0), zone, now)


@lru_cache(maxsize=1024)
def find_time_zone(name: str) -> ZoneInfo | None:
    """A zone of the IANA database, or None if there is none of that name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def _local_time_after(day: date, clock: time, zone: ZoneInfo, after: datetime) -> datetime:
    """When the wall's clock shows that time on that day, the first of two times that is later than `after`."""
    shown = [datetime.combine(day, clock.replace(fold=fold), zone).astimezone(UTC) for fold in (0, 1)]
    later = [at for at in shown if at > after and at.astimezone(zone).time() == clock]
    return min(later, default=shown[0])  # skipped by a change of the clock: as if it had not been changed


def _parse_time(text: str) -> time:
    if len(text.strip()) != len("21:00"):
        raise ValueError
    return time.fromisoformat(text.strip())
