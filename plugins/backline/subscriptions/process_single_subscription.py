"""Renews one subscription: order, stock, next cycle and message, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from backline.db.connect import Session, fetch_one, translate_errors
from backline.db.statements import statement
from backline.dead_letters.unsent import enqueue_or_record
from backline.errors import InvalidInput
from backline.jobs.job import Job
from backline.messages import registry
from backline.messages.fitting import fit
from backline.orders.notifications import Confirmation, enqueue_confirmation
from backline.orders.repository import PricedLine
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
    unsent_messages: int = 0
    """Messages that could not be enqueued; each has a dead letter."""


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
    unsent = 0
    if placed is not None:
        database.execute(statement("subscriptions", "order_reserve"), {"id": placed.id})
        line = PricedLine(row.product, row.quantity, net, tax)
        unsent = enqueue_confirmation(database, _confirmation(row, placed, line), config.order_url)
    _advance(database, row.id, plan.next_on, applies_new_price=plan.applies_new_price)
    outcome = RenewalOutcome.ALREADY_ORDERED if placed is None else plan.outcome
    return Renewal(
        row.id, outcome, plan.cycle_on, plan.next_on, order=order.number, order_id=order.id, unsent_messages=unsent
    )


def _confirmation(row: LockedSubscription, order: _PlacedOrder, line: PricedLine) -> Confirmation:
    return Confirmation(
        order_id=order.id, number=order.number, placed_at=order.placed_at, name=row.name, email=row.email,
        phone=row.phone, language=row.language, zone=row.zone, currency=row.currency, lines=[line], shipping_minor=0,
        tax_minor=line.tax_minor, total_minor=order.total_minor,
    )  # fmt: skip


def _defer(database: Session, row: LockedSubscription, cycle_on: date, config: SubscriptionSettings) -> Renewal:
    retry_on = row.today + timedelta(days=config.out_of_stock_retry_days)
    _advance(database, row.id, cycle_on, retry_on=retry_on)
    unsent = 0
    if row.retry_on is None:  # the owner is notified once for each cycle
        texts = fit(registry.get("subscription_renewal_reminder"), {"name": row.name, "product": row.product})
        payload = {
            "template": "subscription_deferred", "language": row.language,
            "context": {**texts, "manage_url": config.manage_url},
        }  # fmt: skip
        key = f"subscription:{row.id}:{cycle_on}:deferred:{row.today}"
        unsent = enqueue_or_record(database, "templated_email", row.email, payload, key=key)
    reason = f"{row.product} is out of stock"
    return Renewal(row.id, RenewalOutcome.DEFERRED, cycle_on, cycle_on, retry_on, reason=reason, unsent_messages=unsent)


def _advance(
    database: Session, subscription_id: int, next_on: date | None, *, retry_on: date | None = None,
    applies_new_price: bool = False,
) -> None:  # fmt: skip
    values = {"id": subscription_id, "next_on": next_on, "retry_on": retry_on, "applies_new_price": applies_new_price}
    database.execute(statement("subscriptions", "subscription_advance"), values)
