"""On which days a subscription comes round: always its anchor day, or the last day of a month that is too short for it.

Counted from the months, never from the day before: a subscription of the 31st comes on 28 February and on 31 March.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import date


def anchor_date(year: int, month: int, anchor_day: int) -> date:
    """The day of that month that an anchor day (1 to 31) falls on."""
    return date(year, month, min(anchor_day, monthrange(year, month)[1]))


def cycle_after(cycle_on: date, anchor_day: int, interval_months: int, count: int) -> date:
    """The day `count` cycles after that of `cycle_on`; 0 gives its own."""
    year, month = divmod(cycle_on.year * 12 + cycle_on.month - 1 + count * interval_months, 12)
    return anchor_date(year, month + 1, anchor_day)


def first_cycle_from(cycle_on: date, anchor_day: int, interval_months: int, earliest: date) -> date:
    """The first cycle on or after `earliest`: that of `cycle_on` or a later one."""
    months = (earliest.year - cycle_on.year) * 12 + earliest.month - cycle_on.month
    count = max(0, months // interval_months)
    found = cycle_after(cycle_on, anchor_day, interval_months, count)
    return found if found >= earliest else cycle_after(cycle_on, anchor_day, interval_months, count + 1)
