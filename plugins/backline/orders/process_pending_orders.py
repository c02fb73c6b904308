"""Advances orders whose processing has stopped, and alerts operators of stuck ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.jobs.batch import with_unsent
from backline.jobs.job import Job
from backline.orders.process_order import run_saga
from backline.orders.settings import OrderSettings

MAX_KEY_LENGTH = 255


@dataclass(frozen=True, slots=True)
class UnfinishedOrder:
    """An order to advance. After a permanent failure it is attempted again if one of these fields changes."""

    id: int
    number: str
    state: str
    state_since: datetime
    payment_id: int | None
    payment_state: str | None


@dataclass(frozen=True, slots=True)
class StuckOrders:
    """The orders that have been in one state for too long."""

    state: str
    orders: int
    since: datetime
    numbers: list[str]
    """Of the first ten."""


def process_pending_orders(job: Job[OrderSettings]) -> dict[str, object]:
    """Advance up to `batch_limit` unfinished orders, then report and alert of the stuck ones."""
    config, provider = job.settings, job.provider()

    def advance(order: UnfinishedOrder) -> tuple[str, ...]:
        result = run_saga(job.database, provider, order.id, config, other_provider=job.provider)
        return with_unsent(result.outcome, result.unsent_messages)

    values = {"grace_seconds": config.grace_seconds, "payment_timeout_hours": config.payment_timeout_hours}
    orders = job.run_each(
        job.scan(statement("orders", "order_unfinished"), UnfinishedOrder, values), advance,
        key=lambda order: order.number, limit=config.batch_limit, transactional=False, span=(0, 95),
    )  # fmt: skip
    limits = {"states": list(config.stuck_hours), "hours": list(config.stuck_hours.values())}
    stuck = job.rows(statement("orders", "order_stuck"), StuckOrders, limits)
    if stuck:
        _enqueue_stuck_alert(job, stuck)
    return {"orders": orders, "stuck": {each.state: each for each in stuck}}


def _enqueue_stuck_alert(job: Job[OrderSettings], stuck: Sequence[StuckOrders]) -> None:
    """Alert operators of stuck orders, once a day for the same counts."""
    counts = ", ".join(f"{each.orders} {each.state}" for each in stuck)
    context = {
        "title": f"Orders are stuck: {counts}",
        "summary": "They have been in their state for longer than orders.stuck_hours allows.",
        "severity": "warning",
        "details": {
            f"{each.state.capitalize()}, {each.orders}": f"since {each.since:%Y-%m-%dT%H:%M} UTC: {', '.join(each.numbers)}"
            for each in stuck
        },
        "action": "Start process_order with the id of one: its result says what it waits for.",
    }
    payload = {"template": "system_alert", "context": context}
    for address in job.alert_recipients:
        key = f"orders:{job.now.date()}:stuck:{address}:{counts}"[:MAX_KEY_LENGTH]
        try:
            job.enqueue("templated_email", address, payload, key=key)
        except InvalidInput as exc:
            if exc.field != "idempotency_key":  # used today for other orders with the same counts
                raise
