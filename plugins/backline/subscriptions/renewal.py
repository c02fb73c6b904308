"""One subscription's renewal: order, stock, next date and the message about it, all in one transaction or not at all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from backline.db.connect import Session, translate_errors
from backline.db.statements import statement
from backline.subscriptions import notifications
from backline.subscriptions.repository import Row, lock_subscription, to_subscription
from backline.subscriptions.rules import Action, Plan, decide, line_amounts
from backline.subscriptions.settings import SubscriptionSettings


class RenewalOutcome(StrEnum):
    """What a renewal has come to."""

    ORDERED = "ordered"
    ALREADY_ORDERED = "already_ordered"
    """The cycle had its order; the date moves on."""
    SKIPPED = "skipped"
    """As its owner wanted: no order; the date moves on."""
    DEFERRED = "deferred"
    """Out of stock: put off, and its owner told when that began."""
    RESUMED = "resumed"
    """Its pause is over; the next cycle is still to come."""
    BLOCKED = "blocked"
    """Due, but its product is no longer sold or its customer is deactivated: somebody has to decide. Nothing changes."""
    NOT_DUE = "not_due"
    INACTIVE = "inactive"
    """Cancelled, or paused."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What has become of one subscription."""

    subscription_id: int
    outcome: RenewalOutcome
    cycle_on: date | None = None
    """The cycle that it is about."""
    next_on: date | None = None
    """The cycle that is next now."""
    retry_on: date | None = None
    order: str | None = None
    """The order's number."""
    order_id: int | None = None
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For XCom and people; days as text."""
        days = {
            name: value.isoformat() for name in ("cycle_on", "next_on", "retry_on") if (value := getattr(self, name))
        }
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return {**said, **days, "outcome": str(self.outcome)}


def order_number(subscription_id: int, cycle_on: date) -> str:
    """The number of a cycle's order: the same whoever makes it."""
    return f"S-{subscription_id:08d}-{cycle_on:%Y%m%d}"


def renew(connection: Session, subscription_id: int, now: datetime, config: SubscriptionSettings) -> Renewal:
    """Do what is due for one subscription at that moment, in one transaction of its own (a savepoint in the caller's).

    Doing it again does nothing more: the row is locked while it is looked at, the date moves with the order, and a cycle
    has one order by a unique key. InvalidInput if there is no such subscription; DatabaseFailure while somebody else holds
    it, to be tried again.
    """
    with translate_errors(), connection.transaction():
        row = lock_subscription(connection, subscription_id, now)
        plan = decide(to_subscription(row), row["today"])
        if plan.action in (Action.INACTIVE, Action.NOT_DUE):
            return Renewal(
                subscription_id, RenewalOutcome(plan.action), next_on=row["next_on"], retry_on=row["retry_on"]
            )
        if plan.action is Action.ORDER:
            return _place_order(connection, subscription_id, row, plan, config)
        _advance(connection, subscription_id, plan.next_on)
        outcome = RenewalOutcome.SKIPPED if plan.action is Action.SKIP else RenewalOutcome.RESUMED
        return Renewal(subscription_id, outcome, plan.cycle_on, plan.next_on)


def _place_order(
    connection: Session, subscription_id: int, row: Row, plan: Plan, config: SubscriptionSettings
) -> Renewal:
    assert plan.cycle_on is not None  # noqa: S101 - a plan to order has its cycle
    if row["customer_is_deactivated"] or row["product_is_retired"]:
        reason = "the customer is deactivated" if row["customer_is_deactivated"] else "the product is no longer sold"
        return Renewal(subscription_id, RenewalOutcome.BLOCKED, plan.cycle_on, row["next_on"], reason=reason)
    net, tax = line_amounts(row["quantity"], plan.unit_price_minor, row["tax_rate"])
    number = order_number(subscription_id, plan.cycle_on)
    wanted = {
        "subscription_id": subscription_id, "cycle_on": plan.cycle_on, "number": number, "user_id": row["user_id"],
        "product_id": row["product_id"], "quantity": row["quantity"], "unit_price_minor": plan.unit_price_minor,
        "tax_rate": row["tax_rate"], "net_minor": net, "tax_minor": tax, "currency": row["currency"], "country": row["country"],
    }  # fmt: skip
    placed = connection.execute(statement("subscriptions", "order_place"), wanted).fetchone()
    if placed is None:
        made = connection.execute(statement("subscriptions", "order_for_cycle"), wanted).fetchone()
        if made is None:
            return _defer(connection, subscription_id, row, plan.cycle_on, config)
        _advance(connection, subscription_id, plan.next_on, price_changes=plan.applies_new_price)
        return Renewal(
            subscription_id,
            RenewalOutcome.ALREADY_ORDERED,
            plan.cycle_on,
            plan.next_on,
            order=made["number"],
            order_id=made["id"],
        )
    connection.execute(statement("subscriptions", "order_reserve"), {"id": placed["id"]})
    _advance(connection, subscription_id, plan.next_on, price_changes=plan.applies_new_price)
    order = {**placed, "number": number, "unit_price_minor": plan.unit_price_minor, "tax_minor": tax}
    notifications.enqueue_order_confirmation(connection, row, order, config)
    return Renewal(
        subscription_id, RenewalOutcome.ORDERED, plan.cycle_on, plan.next_on, order=number, order_id=placed["id"]
    )


def _defer(
    connection: Session, subscription_id: int, row: Row, cycle_on: date, config: SubscriptionSettings
) -> Renewal:
    retry_on = row["today"] + timedelta(days=config.out_of_stock_retry_days)
    _advance(connection, subscription_id, cycle_on, retry_on=retry_on)
    if row["retry_on"] is None:  # later looks at the same cycle are no news
        notifications.enqueue_deferral(connection, subscription_id, row, cycle_on, config)
    reason = f"{row['product']} is out of stock"
    return Renewal(subscription_id, RenewalOutcome.DEFERRED, cycle_on, cycle_on, retry_on, reason=reason)


def _advance(
    connection: Session,
    subscription_id: int,
    next_on: date | None,
    *,
    retry_on: date | None = None,
    price_changes: bool = False,
) -> None:
    values = {"id": subscription_id, "next_on": next_on, "retry_on": retry_on, "applies_new_price": price_changes}
    connection.execute(statement("subscriptions", "subscription_advance"), values)
