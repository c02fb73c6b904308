"""The cycles of a subscription, and what is due on a day: pure functions.

A cycle is on the anchor day, or on the last day of a month that is too short. It is counted in months, never from the day
before: a subscription of the 31st has cycles on 28 February and 31 March. `today` is the day in the subscription's own zone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from dateutil.relativedelta import relativedelta

ONE_DAY = timedelta(days=1)


class RenewalOutcome(StrEnum):
    """The outcome of a renewal: planned by the rules, or found out when the order is placed."""

    ORDERED = "ordered"
    ALREADY_ORDERED = "already_ordered"
    """The cycle had its order; the subscription moved to the next cycle."""
    SKIPPED = "skipped"
    """At the owner's request: no order; the subscription moved to the next cycle."""
    DEFERRED = "deferred"
    """Out of stock: attempted again later; the owner is notified the first time."""
    RESUMED = "resumed"
    """The pause is over; the next cycle is still to come."""
    BLOCKED = "blocked"
    """Due, but the product is no longer sold or the customer is deactivated: a person has to decide. Nothing changes."""
    NOT_DUE = "not_due"
    INACTIVE = "inactive"
    """Cancelled, or paused."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """The fields of a subscription that the rules use. Amounts are in minor units, without tax."""

    state: str
    """active, paused or cancelled."""
    anchor_day: int
    interval_months: int
    next_on: date | None
    """The next cycle; None once cancelled."""
    skip_next: bool
    retry_on: date | None
    """Out of stock: the cycle of `next_on` is attempted again on this day."""
    resume_on: date | None
    unit_price_minor: int
    new_price_minor: int | None
    new_price_from: date | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is due, for which cycle, and the next cycle afterwards."""

    outcome: RenewalOutcome
    cycle_on: date | None = None
    next_on: date | None = None
    unit_price_minor: int = 0
    applies_new_price: bool = False
    """The new price is valid from this cycle on."""


def decide(subscription: Subscription, today: date) -> Plan:
    """What is due today.

    Of several missed cycles only one gets an order: customers do not want three parcels at a time. Cycles in a pause are
    left out.
    """
    cycle_on = next_cycle(subscription)
    is_paused = subscription.state == "paused"
    if cycle_on is None or (is_paused and (subscription.resume_on is None or subscription.resume_on > today)):
        return Plan(RenewalOutcome.INACTIVE)
    if cycle_on > today:
        return Plan(RenewalOutcome.RESUMED, cycle_on, cycle_on) if is_paused else Plan(RenewalOutcome.NOT_DUE, cycle_on)
    if subscription.retry_on is not None and subscription.retry_on > today:
        return Plan(RenewalOutcome.NOT_DUE, cycle_on)
    next_on = first_cycle_from(
        cycle_on, subscription.anchor_day, subscription.interval_months, max(cycle_on, today) + ONE_DAY
    )
    if is_skipped(subscription, cycle_on):
        return Plan(RenewalOutcome.SKIPPED, cycle_on, next_on)
    price, changes = price_of(subscription, cycle_on)
    return Plan(RenewalOutcome.ORDERED, cycle_on, next_on, price, changes)


def next_cycle(subscription: Subscription) -> date | None:
    """The next cycle, during a pause the first one after it; None if there is none."""
    if subscription.next_on is None or subscription.state == "cancelled":
        return None
    if subscription.state != "paused":
        return subscription.next_on
    if subscription.resume_on is None:
        return None
    return first_cycle_from(
        subscription.next_on, subscription.anchor_day, subscription.interval_months, subscription.resume_on
    )


def is_skipped(subscription: Subscription, cycle_on: date) -> bool:
    """Whether the owner skips that cycle: a skip applies to one cycle only."""
    return subscription.skip_next and cycle_on == subscription.next_on


def price_of(subscription: Subscription, cycle_on: date) -> tuple[int, bool]:
    """The price of one piece in that cycle, and whether that is the new price."""
    price, since = subscription.new_price_minor, subscription.new_price_from
    if price is None or since is None or since > cycle_on:
        return subscription.unit_price_minor, False
    return price, True


def cycle_to_remind(subscription: Subscription, reminded_cycle_on: date | None, today: date) -> date | None:
    """The cycle that gets an order tomorrow, if its owner was not reminded of it yet."""
    cycle_on = next_cycle(subscription)
    if cycle_on != today + ONE_DAY or cycle_on == reminded_cycle_on or is_skipped(subscription, cycle_on):
        return None
    return cycle_on


def line_amounts(quantity: int, unit_price_minor: int, tax_rate: int) -> tuple[int, int]:
    """Net and tax of a line in minor units; the rate is in basis points. Half a unit is rounded up, as for orders."""
    net = quantity * unit_price_minor
    return net, (net * tax_rate + 5000) // 10_000


def cycle_after(cycle_on: date, anchor_day: int, interval_months: int, count: int) -> date:
    """The cycle that is `count` cycles after `cycle_on`; with 0, `cycle_on` on its anchor day."""
    return cycle_on + relativedelta(months=count * interval_months, day=anchor_day)


def first_cycle_from(cycle_on: date, anchor_day: int, interval_months: int, earliest: date) -> date:
    """The first cycle on or after `earliest`, and not before `cycle_on`."""
    months = (earliest.year - cycle_on.year) * 12 + earliest.month - cycle_on.month
    count = max(0, months // interval_months)
    found = cycle_after(cycle_on, anchor_day, interval_months, count)
    return found if found >= earliest else cycle_after(cycle_on, anchor_day, interval_months, count + 1)
