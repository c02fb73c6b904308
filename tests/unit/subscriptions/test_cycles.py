"""The days on which a subscription comes round."""

from __future__ import annotations

from calendar import monthrange
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.subscriptions.rules import cycle_after, first_cycle_from

days = st.dates(date(2000, 1, 1), date(2099, 12, 31))
anchors = st.integers(1, 31)
intervals = st.integers(1, 24)


def day(text: str) -> date:
    return date.fromisoformat(text)


@pytest.mark.parametrize(
    ("start", "anchor", "interval", "expected"),
    [
        ("2026-01-31", 31, 1, ["2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]),
        ("2028-01-30", 30, 1, ["2028-02-29", "2028-03-30", "2028-04-30"]),
        ("2026-02-28", 31, 1, ["2026-03-31", "2026-04-30"]),
        ("2026-02-28", 28, 1, ["2026-03-28", "2026-04-28"]),
        ("2026-11-30", 31, 3, ["2027-02-28", "2027-05-31", "2027-08-31"]),
        ("2024-02-29", 29, 12, ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]),
        ("2026-12-15", 15, 1, ["2027-01-15"]),
    ],
)
def test_the_next_cycles(start: str, anchor: int, interval: int, expected: list[str]) -> None:
    found = [cycle_after(day(start), anchor, interval, count) for count in range(1, len(expected) + 1)]
    assert found == [day(text) for text in expected]
    # One after the other gives the same: no day depends on the one before it.
    walked = [day(start)]
    for _ in expected:
        walked.append(cycle_after(walked[-1], anchor, interval, 1))
    assert walked[1:] == found


@given(days, anchors)
def test_a_short_month_has_its_last_day(month: date, anchor: int) -> None:
    found = cycle_after(month, anchor, 1, 0)
    assert (found.year, found.month) == (month.year, month.month)
    assert found.day == anchor or (found.day < anchor and (found + timedelta(days=1)).day == 1)


@given(days, anchors, intervals, st.integers(0, 100))
def test_cycles_are_whole_intervals_apart(month: date, anchor: int, interval: int, count: int) -> None:
    start = cycle_after(month, anchor, 1, 0)
    found = cycle_after(start, anchor, interval, count)
    assert (found.year - start.year) * 12 + found.month - start.month == count * interval
    assert found.day == min(anchor, monthrange(found.year, found.month)[1])


@given(days, anchors, intervals, days)
def test_the_first_cycle_from_a_day(month: date, anchor: int, interval: int, earliest: date) -> None:
    start = cycle_after(month, anchor, 1, 0)
    found = first_cycle_from(start, anchor, interval, earliest)
    assert found >= earliest
    assert found >= start
    # Every cycle before it is too early: counted from the start, so that it holds for any way of finding it.
    before = [one for count in range(1200) if (one := cycle_after(start, anchor, interval, count)) < found]
    assert all(one < earliest for one in before)
    assert cycle_after(start, anchor, interval, len(before)) == found
