"""One subscription's renewal: order, stock, next date and the message about it, all in one transaction or not at all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from backline.db.connect import translated
from backline.db.session import Session
from backline.db.statements import statement
from backline.subscriptions import messages
from backline.subscriptions.rows import Row, facts, lock
from backline.subscriptions.rules import Plan, Verdict, amounts, decide
from backline.subscriptions.settings import SubscriptionSettings


class Outcome(StrEnum):
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
    outcome: Outcome
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
    with translated(), connection.transaction():
        row = lock(connection, subscription_id, now)
        plan = decide(facts(row), row["today"])
        if plan.verdict in (Verdict.INACTIVE, Verdict.NOT_DUE):
            return Renewal(subscription_id, Outcome(plan.verdict), next_on=row["next_on"], retry_on=row["retry_on"])
        if plan.verdict is Verdict.ORDER:
            return _order(connection, subscription_id, row, plan, config)
        _move(connection, subscription_id, plan.next_on)
        outcome = Outcome.SKIPPED if plan.verdict is Verdict.SKIP else Outcome.RESUMED
        return Renewal(subscription_id, outcome, plan.cycle_on, plan.next_on)


def _order(connection: Session, subscription_id: int, row: Row, plan: Plan, config: SubscriptionSettings) -> Renewal:
    assert plan.cycle_on is not None  # noqa: S101 - a plan to order has its cycle
    if row["customer_is_gone"] or row["product_is_gone"]:
        reason = "the customer is deactivated" if row["customer_is_gone"] else "the product is no longer sold"
        return Renewal(subscription_id, Outcome.BLOCKED, plan.cycle_on, row["next_on"], reason=reason)
    net, tax = amounts(row["quantity"], plan.unit_price_minor, row["tax_rate"])
    number = order_number(subscription_id, plan.cycle_on)
    wanted = {
        "subscription_id": subscription_id, "cycle_on": plan.cycle_on, "number": number, "user_id": row["user_id"],
        "product_id": row["product_id"], "quantity": row["quantity"], "unit_price_minor": plan.unit_price_minor,
        "tax_rate": row["tax_rate"], "net_minor": net, "tax_minor": tax, "currency": row["currency"], "country": row["country"],
    }  # fmt: skip
    placed = connection.execute(statement("subscriptions", "order_place"), wanted).fetchone()
    if placed is None:
        made = connection.execute(statement("subscriptions", "order_of_cycle"), wanted).fetchone()
        if made is None:
            return _defer(connection, subscription_id, row, plan.cycle_on, config)
        _move(connection, subscription_id, plan.next_on, price_changes=plan.price_changes)
        return Renewal(
            subscription_id,
            Outcome.ALREADY_ORDERED,
            plan.cycle_on,
            plan.next_on,
            order=made["number"],
            order_id=made["id"],
        )
    connection.execute(statement("subscriptions", "order_reserve"), {"id": placed["id"]})
    _move(connection, subscription_id, plan.next_on, price_changes=plan.price_changes)
    order = {**placed, "number": number, "unit_price_minor": plan.unit_price_minor, "tax_minor": tax}
    messages.confirm_order(connection, row, order, config)
    return Renewal(subscription_id, Outcome.ORDERED, plan.cycle_on, plan.next_on, order=number, order_id=placed["id"])


def _defer(
    connection: Session, subscription_id: int, row: Row, cycle_on: date, config: SubscriptionSettings
) -> Renewal:
    retry_on = row["today"] + timedelta(days=config.out_of_stock_days)
    _move(connection, subscription_id, cycle_on, retry_on=retry_on)
    if row["retry_on"] is None:  # later looks at the same cycle are no news
        messages.tell_of_deferral(connection, subscription_id, row, cycle_on, config)
    reason = f"{row['product']} is out of stock"
    return Renewal(subscription_id, Outcome.DEFERRED, cycle_on, cycle_on, retry_on, reason=reason)


def _move(
    connection: Session,
    subscription_id: int,
    next_on: date | None,
    *,
    retry_on: date | None = None,
    price_changes: bool = False,
) -> None:
    values = {"id": subscription_id, "next_on": next_on, "retry_on": retry_on, "price_changes": price_changes}
    connection.execute(statement("subscriptions", "subscription_move"), values)
