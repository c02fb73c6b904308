"""Renews one subscription: order, stock, next cycle and message, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from backline.db.connect import Session, fetch_one, translate_errors
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.jobs.job import Job
from backline.outbox.submission import enqueue
from backline.subscriptions.rules import Plan, RenewalOutcome, Subscription, decide, line_amounts
from backline.subscriptions.settings import SubscriptionSettings


@dataclass(frozen=True, slots=True)
class LockedSubscription(Subscription):
    """A subscription with its owner and product, as the database has it."""

    id: int
    reminded_cycle_on: date | None
    quantity: int
    currency: str
    user_id: int
    product_id: int
    zone: str
    today: date
    """The current day in `zone`."""
    product: str
    product_is_retired: bool
    name: str
    email: str
    phone: str | None
    """Only of owners who want text messages."""
    language: str
    country: str
    customer_is_deactivated: bool
    tax_rate: int
    """In basis points."""


@dataclass(frozen=True, slots=True)
class SubscriptionItem:
    """A subscription of a batch. After a permanent failure it is attempted again if its owner's address changes."""

    id: int
    email: str


@dataclass(frozen=True, slots=True)
class _CycleOrder:
    id: int
    number: str


@dataclass(frozen=True, slots=True)
class _PlacedOrder(_CycleOrder):
    placed_at: datetime
    total_minor: int


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


def process_single_subscription(job: Job[SubscriptionSettings]) -> Renewal:
    """Renew the subscription `subscription_id`, if it is due."""
    return renew(job.database, job.params.required("subscription_id", int), job.now, job.settings)


def renew(database: Session, subscription_id: int, now: datetime, config: SubscriptionSettings) -> Renewal:
    """Do what is due for a subscription at that time, in one transaction (a savepoint in the caller's).

    Repeated calls do nothing more: the row is locked, the next cycle is set with the order, and a unique key allows one
    order for a cycle. InvalidInput if the subscription does not exist; DatabaseFailure while another transaction has it.
    """
    with translate_errors(), database.transaction():
        row = lock_subscription(database, subscription_id, now)
        plan = decide(row, row.today)
        if plan.outcome in (RenewalOutcome.INACTIVE, RenewalOutcome.NOT_DUE):
            return Renewal(row.id, plan.outcome, next_on=row.next_on, retry_on=row.retry_on)
        if plan.outcome is RenewalOutcome.ORDERED:
            return _place_order(database, row, plan, config)
        _advance(database, row.id, plan.next_on)
        return Renewal(row.id, plan.outcome, plan.cycle_on, plan.next_on)


def lock_subscription(database: Session, subscription_id: int, now: datetime) -> LockedSubscription:
    """A subscription, locked for the caller's transaction.

    InvalidInput if it does not exist; psycopg's LockNotAvailable while another transaction has it.
    """
    values = {"id": subscription_id, "now": now}
    row = fetch_one(database, statement("subscriptions", "subscription_lock"), LockedSubscription, values)
    if row is None:
        raise InvalidInput("subscription_id", f"there is no subscription {subscription_id}; give the id of one")
    return row


def _place_order(database: Session, row: LockedSubscription, plan: Plan, config: SubscriptionSettings) -> Renewal:
    assert plan.cycle_on is not None  # noqa: S101 - a plan to order has a cycle
    if row.customer_is_deactivated or row.product_is_retired:
        reason = "the customer is deactivated" if row.customer_is_deactivated else "the product is no longer sold"
        return Renewal(row.id, RenewalOutcome.BLOCKED, plan.cycle_on, row.next_on, reason=reason)
    net, tax = line_amounts(row.quantity, plan.unit_price_minor, row.tax_rate)
    number = f"S-{row.id:08d}-{plan.cycle_on:%Y%m%d}"  # always the same for one cycle
    values = {
        "subscription_id": row.id, "cycle_on": plan.cycle_on, "number": number, "user_id": row.user_id,
        "product_id": row.product_id, "quantity": row.quantity, "unit_price_minor": plan.unit_price_minor,
        "tax_rate": row.tax_rate, "net_minor": net, "tax_minor": tax, "currency": row.currency, "country": row.country,
    }  # fmt: skip
    placed = fetch_one(database, statement("subscriptions", "order_place"), _PlacedOrder, values)
    order = placed or fetch_one(database, statement("subscriptions", "order_for_cycle"), _CycleOrder, values)
    if order is None:
        return _defer(database, row, plan.cycle_on, config)
    if placed is not None:
        database.execute(statement("subscriptions", "order_reserve"), {"id": placed.id})
        _enqueue_order_confirmation(database, row, config, placed, plan, tax)
    _advance(database, row.id, plan.next_on, applies_new_price=plan.applies_new_price)
    outcome = RenewalOutcome.ALREADY_ORDERED if placed is None else plan.outcome
    return Renewal(row.id, outcome, plan.cycle_on, plan.next_on, order=order.number, order_id=order.id)


def _enqueue_order_confirmation(
    database: Session, row: LockedSubscription, config: SubscriptionSettings, order: _PlacedOrder, plan: Plan, tax: int
) -> None:
    """Confirm the order of a cycle: by email, and by text message to owners who want that."""
    recipient = {"email": row.email, **({"sms": row.phone} if row.phone else {})}
    payload = {
        "name": row.name, "language": row.language, "zone": row.zone, "order": order.number, "currency": row.currency,
        "placed_at": order.placed_at.isoformat(), "tax": tax, "total": order.total_minor,
        "lines": [{"description": row.product, "quantity": row.quantity, "unit_price": plan.unit_price_minor}],
        "order_url": config.order_url.replace("{order}", order.number),
    }  # fmt: skip
    enqueue(database, "order_confirmation", recipient, payload, key=f"order:{order.id}:confirmation")


def _defer(database: Session, row: LockedSubscription, cycle_on: date, config: SubscriptionSettings) -> Renewal:
    retry_on = row.today + timedelta(days=config.out_of_stock_retry_days)
    _advance(database, row.id, cycle_on, retry_on=retry_on)
    if row.retry_on is None:  # the owner is notified once for each cycle
        context = {"name": row.name, "product": row.product, "manage_url": config.manage_url}
        payload = {"template": "subscription_deferred", "language": row.language, "context": context}
        key = f"subscription:{row.id}:{cycle_on}:deferred:{row.today}"
        enqueue(database, "templated_email", row.email, payload, key=key)
    reason = f"{row.product} is out of stock"
    return Renewal(row.id, RenewalOutcome.DEFERRED, cycle_on, cycle_on, retry_on, reason=reason)


def _advance(
    database: Session, subscription_id: int, next_on: date | None, *, retry_on: date | None = None,
    applies_new_price: bool = False,
) -> None:  # fmt: skip
    values = {"id": subscription_id, "next_on": next_on, "retry_on": retry_on, "applies_new_price": applies_new_price}
    database.execute(statement("subscriptions", "subscription_advance"), values)
