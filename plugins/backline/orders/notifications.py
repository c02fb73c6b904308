"""The messages about orders, each enqueued in the transaction that it reports and never a reason to undo it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from backline.db.connect import Session
from backline.dead_letters.unsent import enqueue_or_record
from backline.messages.fitting import fill_url
from backline.messages.types.commerce import MAX_LINES, MAX_QUANTITY
from backline.orders.repository import Order, PricedLine


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a confirmation shows of an order and its customer. Amounts are in minor units."""

    order_id: int
    number: str
    placed_at: datetime
    name: str
    email: str
    phone: str | None
    """Only of customers who want text messages."""
    language: str
    zone: str
    currency: str
    lines: Sequence[PricedLine]
    shipping_minor: int
    tax_minor: int
    total_minor: int
    promised_on: date | None = None


def confirmation_of(order: Order, lines: Sequence[PricedLine]) -> Confirmation:
    """The confirmation of an order."""
    return Confirmation(
        order_id=order.id, number=order.number, placed_at=order.placed_at, name=order.name, email=order.email,
        phone=order.phone if order.wants_sms else None, language=order.language, zone=order.zone,
        currency=order.currency, lines=lines, shipping_minor=order.shipping_minor, tax_minor=order.tax_minor,
        total_minor=order.total_minor, promised_on=order.promised_on,
    )  # fmt: skip


def build_confirmation(order: Confirmation, url_template: str) -> dict[str, Any]:
    """The payload of an `order_confirmation`: its lines, which include tax, and the shipping add up to the total.

    `url_template` is the order's page with {order} in place of its number.
    """
    shown = [_line_payload(line) for line in order.lines]
    if len(shown) > MAX_LINES:
        rest = shown[MAX_LINES - 1 :]
        total = sum(line["quantity"] * line["unit_price"] for line in rest)
        shown[MAX_LINES - 1 :] = [{"description": f"{len(rest)} further items", "quantity": 1, "unit_price": total}]
    return _payload(
        order, url_template, placed_at=order.placed_at.isoformat(), lines=shown, currency=order.currency,
        shipping=order.shipping_minor, tax=order.tax_minor, total=order.total_minor, zone=order.zone,
        estimated_delivery=order.promised_on and order.promised_on.isoformat(),
    )  # fmt: skip


def enqueue_confirmation(database: Session, order: Confirmation, url_template: str) -> int:
    """Confirm an order, once: by email, and by text message to those who want that. Returns as `enqueue_or_record`."""
    recipient = {"email": order.email, **({"sms": order.phone} if order.phone else {})}
    payload = build_confirmation(order, url_template)
    return enqueue_or_record(
        database, "order_confirmation", recipient, payload, key=f"order:{order.order_id}:confirmation"
    )


def enqueue_status(database: Session, order: Order, status: str, note: str, url_template: str) -> int:
    """Enqueue an `order_status`, unless the customer is deactivated. Returns as `enqueue_or_record`."""
    if not order.can_be_notified:
        return 0
    payload = _payload(order, url_template, status=status, note=note)
    key = f"order:{order.id}:status:{status}"
    return enqueue_or_record(database, "order_status", order.email, payload, key=key)


def _payload(order: Order | Confirmation, url_template: str, **fields: Any) -> dict[str, Any]:
    """The fields that all messages share, and those given, without those that are None."""
    payload = {
        "name": order.name, "order": order.number, "order_url": fill_url(url_template, order=order.number),
        "language": order.language, **fields,
    }  # fmt: skip
    return {name: value for name, value in payload.items() if value is not None}


def _line_payload(line: PricedLine) -> dict[str, Any]:
    """A line with its price per piece including tax, or, where that is not a whole amount, with its total."""
    total = line.net_minor + line.tax_minor
    each, rest = divmod(total, line.quantity)
    if rest or line.quantity > MAX_QUANTITY:
        return {"description": f"{line.quantity} × {line.description}", "quantity": 1, "unit_price": total}  # noqa: RUF001
    return {"description": line.description, "quantity": line.quantity, "unit_price": each}
