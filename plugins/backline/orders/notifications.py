"""The messages about orders, each enqueued in the transaction that it reports."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from backline.db.connect import Session
from backline.errors import InvalidInput
from backline.messages import registry
from backline.orders.repository import Order, OrderLine
from backline.outbox.submission import enqueue

log = logging.getLogger(__name__)

MAX_LINES = 100
"""Lines of a confirmation; the last one sums up the rest of a longer order."""


def build_confirmation(order: Order, lines: Sequence[OrderLine], url_template: str) -> tuple[str, dict[str, Any]]:
    """Recipient and payload of an `order_confirmation`; InvalidInput if it could not be sent.

    Prices include tax. `url_template` is the order's page with {order} in place of its number.
    """
    shown = [_line_payload(line) for line in lines]
    if len(shown) > MAX_LINES:
        rest = shown[MAX_LINES - 1 :]
        total = sum(int(line["quantity"]) * int(line["unit_price"]) for line in rest)
        shown[MAX_LINES - 1 :] = [{"description": f"{len(rest)} further items", "quantity": 1, "unit_price": total}]
    payload = _payload(
        order, url_template, placed_at=order.placed_at.isoformat(), lines=shown, currency=order.currency,
        shipping=order.shipping_minor, tax=order.tax_minor, total=order.total_minor, zone=order.zone,
        estimated_delivery=order.promised_on and order.promised_on.isoformat(),
    )  # fmt: skip
    recipient = {"email": order.email, **({"sms": order.phone} if order.wants_sms else {})}
    kind = registry.get("order_confirmation")
    kind.parse(payload)
    return kind.check_recipient(recipient), payload


def enqueue_status(database: Session, order: Order, status: str, note: str, url_template: str) -> None:
    """Enqueue an `order_status`, unless the customer cannot be notified, which must not stop the order."""
    if not order.can_be_notified:
        return
    payload = _payload(order, url_template, status=status, note=note)
    try:
        with database.transaction():
            enqueue(database, "order_status", order.email, payload, key=f"order:{order.id}:status:{status}")
    except InvalidInput as exc:
        log.warning("order %s: cannot notify the customer that it is %s: %s", order.number, status, exc)


def _payload(order: Order, url_template: str, **fields: Any) -> dict[str, Any]:
    """The fields that all messages share, and those given, without those that are None."""
    payload = {
        "name": order.name, "order": order.number, "order_url": url_template.replace("{order}", order.number),
        "language": order.language, **fields,
    }  # fmt: skip
    return {name: value for name, value in payload.items() if value is not None}


def _line_payload(line: OrderLine) -> Mapping[str, str | int]:
    """A line with its price per piece including tax, or, where that is not a whole amount, with its total."""
    total = line.net_minor + line.tax_minor
    each, rest = divmod(total, line.quantity)
    if rest:
        return {"description": f"{line.quantity} × {line.description}", "quantity": 1, "unit_price": total}  # noqa: RUF001
    return {"description": line.description, "quantity": line.quantity, "unit_price": each}
