"""What is due for a subscription on a day."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.subscriptions.rules import (
    Plan,
    RenewalOutcome,
    Subscription,
    cycle_after,
    cycle_to_remind,
    decide,
    line_amounts,
    price_of,
)

MONTHLY = Subscription(
    state="active", anchor_day=31, interval_months=1, next_on=date(2026, 1, 31), skip_next=False, retry_on=None, resume_on=None,
    unit_price_minor=1000, new_price_minor=None, new_price_from=None,
)  # fmt: skip
TODAY = date(2026, 1, 31)
PAUSED = replace(MONTHLY, state="paused", next_on=date(2025, 10, 31), resume_on=date(2026, 1, 15))


def day(text: str) -> date:
    return date.fromisoformat(text)


CASES: dict[str, tuple[Subscription, str, Plan]] = {
    "due today": (MONTHLY, "2026-01-31", Plan(RenewalOutcome.ORDERED, TODAY, day("2026-02-28"), 1000)),
    "due tomorrow": (MONTHLY, "2026-01-30", Plan(RenewalOutcome.NOT_DUE, TODAY)),
    "three days late": (MONTHLY, "2026-02-03", Plan(RenewalOutcome.ORDERED, TODAY, day("2026-02-28"), 1000)),
    "a whole cycle late, on the day of the next": (
        MONTHLY, "2026-02-28", Plan(RenewalOutcome.ORDERED, TODAY, day("2026-03-31"), 1000),
    ),
    "months late: one order, not several": (MONTHLY, "2026-05-07", Plan(RenewalOutcome.ORDERED, TODAY, day("2026-05-31"), 1000)),
    "skipped": (replace(MONTHLY, skip_next=True), "2026-01-31", Plan(RenewalOutcome.SKIPPED, TODAY, day("2026-02-28"))),
    "to be skipped later": (replace(MONTHLY, skip_next=True), "2026-01-30", Plan(RenewalOutcome.NOT_DUE, TODAY)),
    "deferred until tomorrow": (replace(MONTHLY, retry_on=day("2026-02-01")), "2026-01-31", Plan(RenewalOutcome.NOT_DUE, TODAY)),
    "deferred until today": (
        replace(MONTHLY, retry_on=day("2026-02-01")), "2026-02-01", Plan(RenewalOutcome.ORDERED, TODAY, day("2026-02-28"), 1000),
    ),
    "cancelled": (replace(MONTHLY, state="cancelled", next_on=None), "2026-01-31", Plan(RenewalOutcome.INACTIVE)),
    "paused without an end": (replace(PAUSED, resume_on=None), "2026-01-31", Plan(RenewalOutcome.INACTIVE)),
    "paused until tomorrow": (PAUSED, "2026-01-14", Plan(RenewalOutcome.INACTIVE)),
    "resumed, its next day still to come": (PAUSED, "2026-01-15", Plan(RenewalOutcome.RESUMED, TODAY, TODAY)),
    "resumed on its day": (
        replace(PAUSED, resume_on=TODAY), "2026-01-31", Plan(RenewalOutcome.ORDERED, TODAY, day("2026-02-28"), 1000),
    ),
    "resumed, and what was skipped lay in the pause": (
        replace(PAUSED, resume_on=TODAY, skip_next=True), "2026-01-31", Plan(RenewalOutcome.ORDERED, TODAY, day("2026-02-28"), 1000),
    ),
    "resumed before what is skipped": (
        replace(PAUSED, next_on=TODAY, skip_next=True), "2026-01-31", Plan(RenewalOutcome.SKIPPED, TODAY, day("2026-02-28")),
    ),
    "a new price from this cycle on": (
        replace(MONTHLY, new_price_minor=1200, new_price_from=TODAY), "2026-01-31",
        Plan(RenewalOutcome.ORDERED, TODAY, day("2026-02-28"), 1200, applies_new_price=True),
    ),
    "a new price from the next cycle on, and a late order": (
        replace(MONTHLY, new_price_minor=1200, new_price_from=day("2026-02-01")), "2026-02-10",
        Plan(RenewalOutcome.ORDERED, TODAY, day("2026-02-28"), 1000),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("subscription", "today", "plan"), CASES.values(), ids=CASES)
def test_decide(subscription: Subscription, today: str, plan: Plan) -> None:
    assert decide(subscription, day(today)) == plan


months = st.dates(date(2020, 1, 1), date(2040, 12, 31))


@st.composite
def subscriptions(draw: st.DrawFn) -> Subscription:
    anchor = draw(st.integers(1, 31))
    month = draw(months)
    next_on = cycle_after(month, anchor, 1, 0)
    state = draw(st.sampled_from(["active", "paused", "cancelled"]))
    return Subscription(
        state=state, anchor_day=anchor, interval_months=draw(st.integers(1, 24)),
        next_on=None if state == "cancelled" else next_on,
        skip_next=state != "cancelled" and draw(st.booleans()),
        retry_on=next_on + timedelta(days=draw(st.integers(1, 90))) if state == "active" and draw(st.booleans()) else None,
        resume_on=next_on + timedelta(days=draw(st.integers(-400, 400))) if state == "paused" and draw(st.booleans()) else None,
        unit_price_minor=draw(st.integers(1, 10**6)), new_price_minor=draw(st.integers(1, 10**6)),
        new_price_from=next_on + timedelta(days=draw(st.integers(-100, 100))),
    )  # fmt: skip


def advanced(subscription: Subscription, plan: Plan) -> Subscription:
    """The subscription after what was planned was done."""
    return replace(subscription, state="active", next_on=plan.next_on, retry_on=None, resume_on=None,
                   skip_next=subscription.skip_next and subscription.next_on == plan.next_on)  # fmt: skip


@given(subscriptions(), st.integers(-400, 800))
def test_a_cycle_is_due_once(subscription: Subscription, days: int) -> None:
    today = (subscription.next_on or date(2026, 1, 1)) + timedelta(days=days)
    plan = decide(subscription, today)
    if plan.outcome in (RenewalOutcome.ORDERED, RenewalOutcome.SKIPPED, RenewalOutcome.RESUMED):
        assert plan.next_on is not None
        assert plan.next_on > today
        assert decide(advanced(subscription, plan), today).outcome is RenewalOutcome.NOT_DUE
        # ... and on its next day it is due, whatever came before.
        assert decide(advanced(subscription, plan), plan.next_on).outcome in (
            RenewalOutcome.ORDERED,
            RenewalOutcome.SKIPPED,
        )


@given(subscriptions(), st.integers(-400, 800))
def test_an_order_is_for_a_past_or_present_cycle(subscription: Subscription, days: int) -> None:
    today = (subscription.next_on or date(2026, 1, 1)) + timedelta(days=days)
    plan = decide(subscription, today)
    if plan.outcome is not RenewalOutcome.ORDERED:
        return
    assert subscription.next_on is not None
    assert plan.cycle_on is not None
    assert subscription.next_on <= plan.cycle_on <= today
    apart = (plan.cycle_on.year - subscription.next_on.year) * 12 + plan.cycle_on.month - subscription.next_on.month
    assert apart % subscription.interval_months == 0
    assert subscription.resume_on is None or subscription.resume_on <= plan.cycle_on
    since = subscription.new_price_from
    assert since is not None
    wanted = subscription.new_price_minor if since <= plan.cycle_on else subscription.unit_price_minor
    assert plan.unit_price_minor == wanted


@given(subscriptions(), st.integers(0, 36))
def test_daily_runs_order_each_cycle_once_on_its_day(subscription: Subscription, count: int) -> None:
    if subscription.state != "active" or subscription.next_on is None:
        return
    current = replace(subscription, retry_on=None, skip_next=False)
    expected = [cycle_after(subscription.next_on, current.anchor_day, current.interval_months, n) for n in range(count)]
    ordered = []
    for today in expected:
        assert decide(current, today - timedelta(days=1)).outcome is RenewalOutcome.NOT_DUE
        plan = decide(current, today)
        assert plan.outcome is RenewalOutcome.ORDERED
        ordered.append(plan.cycle_on)
        current = advanced(current, plan)
    assert ordered == expected


ZONES = ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "America/Los_Angeles", "Asia/Kathmandu", "Europe/Berlin", "Pacific/Auckland"]  # fmt: skip


@given(months, st.sampled_from(ZONES))
def test_daily_runs_at_midnight_utc_cover_every_day_of_every_zone_once(start: date, zone: str) -> None:
    runs = [datetime(start.year, start.month, start.day, tzinfo=UTC) + timedelta(days=n) for n in range(40)]
    days = [run.astimezone(ZoneInfo(zone)).date() for run in runs]
    assert days == [days[0] + timedelta(days=n) for n in range(40)]


def test_a_reminder_is_for_tomorrow_and_once() -> None:
    before = TODAY - timedelta(days=1)
    assert cycle_to_remind(MONTHLY, None, before) == TODAY
    assert cycle_to_remind(MONTHLY, TODAY, before) is None
    assert cycle_to_remind(MONTHLY, date(2025, 12, 31), before) == TODAY
    assert cycle_to_remind(MONTHLY, None, TODAY) is None
    assert cycle_to_remind(MONTHLY, None, before - timedelta(days=1)) is None


def test_a_subscription_without_a_next_order_gets_no_reminder() -> None:
    before = TODAY - timedelta(days=1)
    assert cycle_to_remind(replace(MONTHLY, skip_next=True), None, before) is None
    assert cycle_to_remind(replace(MONTHLY, state="cancelled", next_on=None), None, before) is None
    assert cycle_to_remind(replace(PAUSED, resume_on=None), None, before) is None


@given(subscriptions(), st.integers(-400, 800))
def test_a_reminder_is_followed_by_an_order_the_next_day(subscription: Subscription, days: int) -> None:
    today = (subscription.next_on or date(2026, 1, 1)) + timedelta(days=days)
    if (cycle_on := cycle_to_remind(subscription, None, today)) is None:
        return
    assert cycle_on == today + timedelta(days=1)
    announced = replace(subscription, retry_on=None)
    plan = decide(announced, cycle_on)
    assert (plan.outcome, plan.cycle_on) == (RenewalOutcome.ORDERED, cycle_on)
    assert plan.unit_price_minor == price_of(subscription, cycle_on)[0]


@pytest.mark.parametrize(
    ("quantity", "price", "rate", "expected"),
    [(1, 1000, 1900, (1000, 190)), (3, 333, 1900, (999, 190)), (1, 50, 700, (50, 4)), (1, 1, 1900, (1, 0)),
     (2, 1990, 0, (3980, 0)), (1, 10, 500, (10, 1))],
)  # fmt: skip
def test_amounts_are_rounded_as_for_orders(quantity: int, price: int, rate: int, expected: tuple[int, int]) -> None:
    assert line_amounts(quantity, price, rate) == expected
