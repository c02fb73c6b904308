"""Advances orders whose processing has stopped, and alerts operators of stuck ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backline.db.statements import statement
from backline.jobs.job import Job
from backline.orders.notifications import StuckOrders, enqueue_stuck_alert
from backline.orders.saga import run_saga
from backline.orders.settings import OrderSettings


@dataclass(frozen=True, slots=True)
class UnfinishedOrder:
    """An order to advance. After a permanent failure it is attempted again if one of these fields changes."""

    id: int
    number: str
    state: str
    state_since: datetime
    payment_id: int | None
    payment_state: str | None


def process_pending_orders(job: Job[OrderSettings]) -> dict[str, object]:
    """Advance up to `batch_limit` unfinished orders, then report and alert of the stuck ones."""
    config, provider = job.settings, job.provider()
    values = {"grace_seconds": config.grace_seconds, "payment_timeout_hours": config.payment_timeout_hours}
    orders = job.run_each(
        job.scan(statement("orders", "order_unfinished"), UnfinishedOrder, values),
        lambda order: run_saga(job.database, provider, order.id, config).outcome,
        key=lambda order: order.number, limit=config.batch_limit, transactional=False, span=(0, 95),
    )  # fmt: skip
    stuck = find_stuck(job)
    if stuck:
        enqueue_stuck_alert(job.database, job.alert_recipients, stuck, job.now.date())
    return {"orders": orders, "stuck": {each.state: each for each in stuck}}


def find_stuck(job: Job[OrderSettings]) -> list[StuckOrders]:
    """Orders that have been in their state for longer than `stuck_hours` allows, by state."""
    allowed = job.settings.stuck_hours
    values = {"states": list(allowed), "hours": list(allowed.values())}
    return job.rows(statement("orders", "order_stuck"), StuckOrders, values)
