"""Renews one subscription: order, stock, next cycle and message, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from backline.db.connect import Session, translate_errors
from backline.db.statements import statement
from backline.subscriptions import notifications
from backline.subscriptions.repository import SubscriptionRow, lock_subscription
from backline.subscriptions.rules import Action, Plan, decide, line_amounts
from backline.subscriptions.settings import SubscriptionSettings


class RenewalOutcome(StrEnum):
    """The outcome of a renewal."""

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
class Renewal:
    """What a renewal did."""

    subscription_id: int
    outcome: RenewalOutcome
    cycle_on: date | None = None
    """The cycle that it is about."""
    next_on: date | None = None
    """The next cycle from now on."""
    retry_on: date | None = None
    order: str | None = None
    """The order's number."""
    order_id: int | None = None
    reason: str | None = None


def order_number(subscription_id: int, cycle_on: date) -> str:
    """The number of a cycle's order: always the same for one cycle."""
    return f"S-{subscription_id:08d}-{cycle_on:%Y%m%d}"


def renew(database: Session, subscription_id: int, now: datetime, config: SubscriptionSettings) -> Renewal:
    """Do what is due for a subscription at that time, in one transaction (a savepoint in the caller's).

    Repeated calls do nothing more: the row is locked, the next cycle is set with the order, and a unique key allows one
    order for a cycle. InvalidInput if the subscription does not exist; DatabaseFailure while another transaction has it.
    """
    with translate_errors(), database.transaction():
        row = lock_subscription(database, subscription_id, now)
        plan = decide(row, row.today)
        if plan.action in (Action.INACTIVE, Action.NOT_DUE):
            return Renewal(row.id, RenewalOutcome(plan.action), next_on=row.next_on, retry_on=row.retry_on)
        if plan.action is Action.ORDER:
            return _place_order(database, row, plan, config)
        _advance(database, row.id, plan.next_on)
        outcome = RenewalOutcome.SKIPPED if plan.action is Action.SKIP else RenewalOutcome.RESUMED
        return Renewal(row.id, outcome, plan.cycle_on, plan.next_on)


def _place_order(database: Session, row: SubscriptionRow, plan: Plan, config: SubscriptionSettings) -> Renewal:
    assert plan.cycle_on is not None  # noqa: S101 - a plan to order has a cycle
    if row.customer_is_deactivated or row.product_is_retired:
        reason = "the customer is deactivated" if row.customer_is_deactivated else "the product is no longer sold"
        return Renewal(row.id, RenewalOutcome.BLOCKED, plan.cycle_on, row.next_on, reason=reason)
    net, tax = line_amounts(row.quantity, plan.unit_price_minor, row.tax_rate)
    number = order_number(row.id, plan.cycle_on)
    values = {
        "subscription_id": row.id, "cycle_on": plan.cycle_on, "number": number, "user_id": row.user_id,
        "product_id": row.product_id, "quantity": row.quantity, "unit_price_minor": plan.unit_price_minor,
        "tax_rate": row.tax_rate, "net_minor": net, "tax_minor": tax, "currency": row.currency, "country": row.country,
    }  # fmt: skip
    outcome = RenewalOutcome.ORDERED
    order = database.execute(statement("subscriptions", "order_place"), values).fetchone()
    if order is not None:
        database.execute(statement("subscriptions", "order_reserve"), {"id": order["id"]})
        notifications.enqueue_order_confirmation(
            database, row, config, number=number, placed_at=order["placed_at"], unit_price_minor=plan.unit_price_minor,
            tax_minor=tax, total_minor=order["total_minor"],
        )  # fmt: skip
    else:
        outcome = RenewalOutcome.ALREADY_ORDERED
        order = database.execute(statement("subscriptions", "order_for_cycle"), values).fetchone()
        if order is None:
            return _defer(database, row, plan.cycle_on, config)
    _advance(database, row.id, plan.next_on, applies_new_price=plan.applies_new_price)
    return Renewal(row.id, outcome, plan.cycle_on, plan.next_on, order=order["number"], order_id=order["id"])


def _defer(database: Session, row: SubscriptionRow, cycle_on: date, config: SubscriptionSettings) -> Renewal:
    retry_on = row.today + timedelta(days=config.out_of_stock_retry_days)
    _advance(database, row.id, cycle_on, retry_on=retry_on)
    if row.retry_on is None:  # the owner is notified once for each cycle
        notifications.enqueue_deferral(database, row, cycle_on, config)
    reason = f"{row.product} is out of stock"
    return Renewal(row.id, RenewalOutcome.DEFERRED, cycle_on, cycle_on, retry_on, reason=reason)


def _advance(
    database: Session, subscription_id: int, next_on: date | None, *, retry_on: date | None = None,
    applies_new_price: bool = False,
) -> None:  # fmt: skip
    values = {"id": subscription_id, "next_on": next_on, "retry_on": retry_on, "applies_new_price": applies_new_price}
    database.execute(statement("subscriptions", "subscription_advance"), values)
