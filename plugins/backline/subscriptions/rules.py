"""What is to be done with a subscription on a day: pure decisions, with neither clock nor database.

`today` is the day in the subscription's own zone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from backline.subscriptions.cycles import first_cycle_from

ONE_DAY = timedelta(days=1)


class Action(StrEnum):
    """What is to be done."""

    ORDER = "order"
    """The cycle is due: it makes an order."""
    SKIP = "skip"
    """The cycle is due, and its owner did not want it."""
    RESUME = "resume"
    """The pause is over, and the next cycle is still to come."""
    NOT_DUE = "not_due"
    INACTIVE = "inactive"
    """Cancelled, or paused."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What the rules ask of a subscription; amounts in minor units, without tax."""

    state: str
    """active, paused or cancelled."""
    anchor_day: int
    interval_months: int
    next_on: date | None
    """The day of the cycle that is next; None once cancelled."""
    skip_next: bool
    retry_on: date | None
    """Out of stock: the cycle of `next_on` is looked at again on this day."""
    resume_on: date | None
    unit_price_minor: int
    new_price_minor: int | None
    new_price_from: date | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, for which cycle, and where the subscription stands afterwards."""

    action: Action
    cycle_on: date | None = None
    next_on: date | None = None
    unit_price_minor: int = 0
    applies_new_price: bool = False
    """The new price holds from this cycle on."""


def decide(subscription: Subscription, today: date) -> Plan:
    """What is to be done today.

    A cycle that is late is made up for once: cycles that were missed meanwhile make no orders of their own, because nobody
    wants three parcels at a time. A pause leaves out the cycles that lie in it.
    """
    cycle_on = next_cycle(subscription)
    is_paused = subscription.state == "paused"
    if cycle_on is None or (is_paused and (subscription.resume_on is None or subscription.resume_on > today)):
        return Plan(Action.INACTIVE)
    if cycle_on > today:
        return Plan(Action.RESUME, cycle_on, cycle_on) if is_paused else Plan(Action.NOT_DUE, cycle_on)
    if subscription.retry_on is not None and subscription.retry_on > today:
        return Plan(Action.NOT_DUE, cycle_on)
    next_on = first_cycle_from(
        cycle_on, subscription.anchor_day, subscription.interval_months, max(cycle_on, today) + ONE_DAY
    )
    if is_skipped(subscription, cycle_on):
        return Plan(Action.SKIP, cycle_on, next_on)
    price, changes = price_of(subscription, cycle_on)
    return Plan(Action.ORDER, cycle_on, next_on, price, changes)


def next_cycle(subscription: Subscription) -> date | None:
    """The cycle that is next, or will be once the pause is over; None if there is none."""
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
    """Whether that cycle makes no order: what was said of one cycle does not hold for another."""
    return subscription.skip_next and cycle_on == subscription.next_on


def price_of(subscription: Subscription, cycle_on: date) -> tuple[int, bool]:
    """What one piece costs in that cycle, and whether that is the new price."""
    price, since = subscription.new_price_minor, subscription.new_price_from
    if price is None or since is None or since > cycle_on:
        return subscription.unit_price_minor, False
    return price, True


def cycle_to_remind(subscription: Subscription, reminded_cycle_on: date | None, today: date) -> date | None:
    """The cycle that makes an order tomorrow, if its owner was not reminded of it yet."""
    cycle_on = next_cycle(subscription)
    if cycle_on != today + ONE_DAY or cycle_on == reminded_cycle_on or is_skipped(subscription, cycle_on):
        return None
    return cycle_on


def line_amounts(quantity: int, unit_price_minor: int, tax_rate: int) -> tuple[int, int]:
    """Net and tax of a line in minor units; the rate is in basis points. Half a unit is rounded up, as on orders."""
    net = quantity * unit_price_minor
    return net, (net * tax_rate + 5000) // 10_000
