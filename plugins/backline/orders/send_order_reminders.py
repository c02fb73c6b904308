"""Reminds customers of their orders: once an order and stage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from backline.db.connect import Session, translate_error
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.orders import notifications
from backline.orders.settings import OrderSettings
from backline.outbox.submission import enqueue

log = logging.getLogger(__name__)

PAGE_SIZE = 500
MAX_LISTED = 50
HOURS_PER_DAY = 24
Progress = Callable[[float, str], object]


@dataclass(frozen=True, slots=True)
class Stage:
    """When a customer is reminded, and of what."""

    name: str
    """As it is noted."""
    message_stage: str
    """The stage of the message `order_reminder`."""
    after_hours: float
    """After the order came to its state."""
    until_hours: float
    """Later than this it would be no reminder: the stage is left out."""


@dataclass(slots=True)
class ReminderReport:
    """What a run has done."""

    reminded: dict[str, int] = field(default_factory=dict)
    """By stage."""
    rejected: list[dict[str, str]] = field(default_factory=list)
    """The first customers that cannot be written to: stage, the order's number, why."""
    has_more: bool = False
    """Whether the bound has stopped it."""

    def as_dict(self) -> dict[str, Any]:
        """For the run's result."""
        return asdict(self)


def stages(config: OrderSettings) -> tuple[Stage, ...]:
    """The stages, from the settings. An order has its reminders one by one: the second begins where the first ends."""
    return (
        Stage("payment_missing", "payment_due", config.payment_missing_hours, config.payment_missing_again_hours),
        Stage("payment_missing_again", "payment_due", config.payment_missing_again_hours, config.payment_timeout_hours),
        Stage("review", "review_due", config.review_days * HOURS_PER_DAY, config.review_until_days * HOURS_PER_DAY),
    )


def send_reminders(database: Session, config: OrderSettings, progress: Progress = lambda *_: None) -> ReminderReport:
    """Remind up to `batch_limit` customers a stage. Each reminder is noted and enqueued in one transaction of its own."""
    report = ReminderReport()
    for place, stage in enumerate(stages(config)):
        progress(100 * place / 3, stage.name)
        report.reminded[stage.name] = _send_stage(database, config, stage, report)
    return report


def _send_stage(database: Session, config: OrderSettings, stage: Stage, report: ReminderReport) -> int:
    reminded = looked_at = after = 0
    while looked_at < config.batch_limit:
        most = min(PAGE_SIZE, config.batch_limit - looked_at)
        values = {
            "stage": stage.name, "after_hours": stage.after_hours, "until_hours": stage.until_hours, "after": after,
            "payment_timeout_hours": config.payment_timeout_hours, "batch_limit": most,
        }  # fmt: skip
        orders = database.execute(statement("orders", "reminder_due"), values).fetchall()
        for order in orders:
            reminded += _send_reminder(database, config, stage, order, report)
        if len(orders) < most:
            return reminded
        looked_at += len(orders)
        after = orders[-1]["id"]
    report.has_more = True
    return reminded


def _send_reminder(
    database: Session, config: OrderSettings, stage: Stage, order: Mapping[str, Any], report: ReminderReport
) -> bool:
    try:
        with database.transaction():
            noted = database.execute(statement("orders", "reminder_insert"), {"id": order["id"], "stage": stage.name})
            if noted.fetchone() is None:
                return False
            key = f"order:{order['id']}:{stage.name}"
            enqueue(database, "order_reminder", order["email"], _payload(config, stage, order), key=key)
    except InvalidInput as exc:
        log.warning("order %s: its customer cannot be reminded: %s", order["number"], exc)
        if len(report.rejected) < MAX_LISTED:
            report.rejected.append({"stage": stage.name, "order": order["number"], "why": str(exc)[:500]})
        return False
    except psycopg.Error as exc:
        raise translate_error(exc) from exc
    return True


def _payload(config: OrderSettings, stage: Stage, order: Mapping[str, Any]) -> dict[str, Any]:
    payload = {
        "name": order["name"],
        "order": order["number"],
        "stage": stage.message_stage,
        "order_url": notifications.order_url(config.order_url, order["number"]),
        "language": order["language"],
    }
    if stage.message_stage == "payment_due":
        payload |= {
            "due_on": order["pay_until"].isoformat(), "amount": order["total_minor"], "currency": order["currency"],
        }  # fmt: skip
    return payload
