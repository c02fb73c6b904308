"""Reminds customers of unpaid orders, and asks them to review delivered ones: once for each order and stage."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from backline.db.statements import statement
from backline.jobs.batch import BatchResult
from backline.jobs.job import Job
from backline.messages import registry
from backline.messages.fitting import fill_url, fit
from backline.orders.settings import OrderSettings

HOURS_PER_DAY = 24


@dataclass(frozen=True, slots=True)
class Stage:
    """A reminder that an order gets between `after_hours` and `until_hours` in its state."""

    name: str
    """As it is stored."""
    message_stage: str
    """The stage of the message `order_reminder`."""
    after_hours: float
    until_hours: float


@dataclass(frozen=True, slots=True)
class DueReminder:
    """An order whose customer is due a reminder."""

    id: int
    number: str
    currency: str
    total_minor: int
    name: str
    email: str
    language: str
    pay_until: date


def send_order_reminders(job: Job[OrderSettings]) -> BatchResult:
    """Send up to `reminder_batch_limit` reminders; the result counts them by stage."""
    result, stages = BatchResult(), reminder_stages(job.settings)
    for index, stage in enumerate(stages):
        limit = job.settings.reminder_batch_limit - result.done - result.failed
        result.add(_send_stage(job, stage, limit, (100 * index / len(stages), 100 * (index + 1) / len(stages))))
    return result


def reminder_stages(config: OrderSettings) -> tuple[Stage, ...]:
    """The stages, from the settings. An order gets one reminder at a time: the second stage begins where the first ends."""
    return (
        Stage("payment_missing", "payment_due", config.payment_missing_hours, config.payment_missing_again_hours),
        Stage("payment_missing_again", "payment_due", config.payment_missing_again_hours, config.payment_timeout_hours),
        Stage("review", "review_due", config.review_days * HOURS_PER_DAY, config.review_until_days * HOURS_PER_DAY),
    )


def _send_stage(job: Job[OrderSettings], stage: Stage, limit: int, span: tuple[float, float]) -> BatchResult:
    config = job.settings
    values = {
        "stage": stage.name, "after_hours": stage.after_hours, "until_hours": stage.until_hours,
        "payment_timeout_hours": config.payment_timeout_hours,
    }  # fmt: skip

    def remind(order: DueReminder) -> str:
        """Store that the customer is reminded, and enqueue the message, in one transaction."""
        if not job.rows(statement("orders", "reminder_insert"), int, {"id": order.id, "stage": stage.name}):
            return "not_due"  # reminded by another run, or the order has changed
        key = f"order:{order.id}:reminder:{stage.name}"
        job.enqueue("order_reminder", order.email, _payload(config, stage, order), key=key)
        return stage.name

    return job.run_each(
        job.scan(statement("orders", "reminder_due"), DueReminder, values), remind,
        key=lambda order: f"{order.number} {stage.name}", limit=limit, span=span,
    )  # fmt: skip


def _payload(config: OrderSettings, stage: Stage, order: DueReminder) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "name": order.name, "order": order.number, "stage": stage.message_stage, "language": order.language,
        "order_url": fill_url(config.order_url, order=order.number),
    }  # fmt: skip
    if stage.message_stage == "payment_due":
        payload |= {
            "due_on": order.pay_until.isoformat(), "amount": order.total_minor, "currency": order.currency,
        }  # fmt: skip
    return fit(registry.get("order_reminder"), payload)
