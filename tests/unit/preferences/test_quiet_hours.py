"""Quiet hours on the wall's clock, changes of the clock included."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.preferences.quiet_hours import (
    QuietHours,
    find_time_zone,
    next_day_start,
    parse_quiet_hours,
    quiet_period_end,
)

NIGHT = QuietHours(time(21), time(8))
SIESTA = QuietHours(time(13), time(15, 30))
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "America/St_Johns")]  # fmt: skip


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


CASES = {
    "in the evening": ("2026-11-22T22:00+01:00", NIGHT, "2026-11-23T08:00+01:00"),
    "after midnight": ("2026-11-23T03:00+01:00", NIGHT, "2026-11-23T08:00+01:00"),
    "as it begins": ("2026-11-22T21:00+01:00", NIGHT, "2026-11-23T08:00+01:00"),
    "as it ends": ("2026-11-23T08:00+01:00", NIGHT, None),
    "by day": ("2026-11-22T12:00+01:00", NIGHT, None),
    "given in another zone": ("2026-11-22T20:30+00:00", NIGHT, "2026-11-23T08:00+01:00"),
    "within one day": ("2026-11-22T13:15+01:00", SIESTA, "2026-11-22T15:30+01:00"),
    "outside of it": ("2026-11-22T15:30+01:00", SIESTA, None),
    "over the night in which clocks go forward": ("2026-03-28T22:00+01:00", NIGHT, "2026-03-29T08:00+02:00"),
    "over the night in which they go back": ("2026-10-24T22:00+02:00", NIGHT, "2026-10-25T08:00+01:00"),
    "an end that is skipped": ("2026-03-29T01:00+01:00", QuietHours(time(0), time(2, 30)), "2026-03-29T03:30+02:00"),
    "an end that comes twice, before": ("2026-10-25T01:00+02:00", QuietHours(time(0), time(2, 30)), "2026-10-25T02:30+02:00"),
    "an end that comes twice, between": ("2026-10-25T02:10+01:00", QuietHours(time(0), time(2, 30)), "2026-10-25T02:30+01:00"),
    "none at all": ("2026-11-22T21:00+01:00", QuietHours(time(21), time(21)), None),
}  # fmt: skip


@pytest.mark.parametrize(("now", "hours", "until"), CASES.values(), ids=CASES)
def test_quiet_until(now: str, hours: QuietHours, until: str | None) -> None:
    assert quiet_period_end(at(now), hours, BERLIN) == (None if until is None else at(until))


clocks = st.times().map(lambda clock: clock.replace(second=0, microsecond=0))
moments = st.datetimes(datetime(2011, 1, 1), datetime(2035, 1, 1)).map(lambda naive: naive.replace(tzinfo=UTC))  # noqa: DTZ001


@given(now=moments, start=clocks, end=clocks, zone=st.sampled_from(ZONES), part=st.integers(0, 999))
def test_a_deferred_message_is_due_after_the_quiet_hours(
    now: datetime, start: time, end: time, zone: ZoneInfo, part: int
) -> None:
    hours = QuietHours(start, end)
    until = quiet_period_end(now, hours, zone)
    if until is None:
        return
    assert now < until <= now + timedelta(hours=49)
    assert quiet_period_end(until, hours, zone) is None
    between = now + (until - now) * part // 1000  # exact: a float may round up to the end
    if between.astimezone(zone).utcoffset() == now.astimezone(zone).utcoffset() == until.astimezone(zone).utcoffset():
        assert quiet_period_end(between, hours, zone) == until


@given(now=moments, zone=st.sampled_from(ZONES))
def test_the_next_day_is_the_next(now: datetime, zone: ZoneInfo) -> None:
    begins = next_day_start(now, zone)
    assert now < begins <= now + timedelta(hours=49)
    assert begins.astimezone(zone).date() > now.astimezone(zone).date()
    assert (begins - timedelta(minutes=61)).astimezone(zone).date() < begins.astimezone(zone).date()


def test_the_settings_hours_are_read() -> None:
    assert parse_quiet_hours("21:00-08:00") == NIGHT
    assert str(NIGHT) == "21:00 to 08:00"


@pytest.mark.parametrize(
    "text", ["", "21:00", "21-08", "25:00-08:00", "21:00-8:00", "21:00-08:00-09:00", "21:00-08:00Z"]
)
def test_invalid_hours_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="two times of the day"):
        parse_quiet_hours(text)


@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "../etc/passwd", "Europe"])
def test_an_invalid_zone_is_none(name: str) -> None:
    assert find_time_zone(name) is None
