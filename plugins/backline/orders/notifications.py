"""What customers are told of their orders, each in the transaction of what it tells of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from backline.db.connect import Session
from backline.errors import InvalidInput
from backline.messages import registry
from backline.outbox.submission import enqueue

log = logging.getLogger(__name__)

MAX_LINES = 100
"""Of a confirmation; the lines of a longer order are summed up in the last."""
Row = Mapping[str, Any]


def build_confirmation(order: Row, lines: Sequence[Row], url_template: str) -> tuple[str, dict[str, Any]]:
    """Recipient and payload of an `order_confirmation`; InvalidInput if it could not be sent.

    Prices are shown with their tax. `page` is the order's own, with {order} for its number.
    """
    shown = [_line_payload(line) for line in lines]
    if len(shown) > MAX_LINES:
        rest = shown[MAX_LINES - 1 :]
        more = {"description": f"{len(rest)} further items", "quantity": 1}
        shown = [*shown[: MAX_LINES - 1], {**more, "unit_price": sum(_line_total(line) for line in rest)}]
    payload = _payload(
        order,
        url_template,
        placed_at=order["placed_at"].isoformat(),
        lines=shown,
        currency=order["currency"],
        shipping=order["shipping_minor"],
        tax=order["tax_minor"],
        total=order["total_minor"],
        estimated_delivery=order["promised_on"] and order["promised_on"].isoformat(),
        zone=order["zone"],
    )
    to = {"email": order["email"], **({"sms": order["phone"]} if order["wants_sms"] else {})}
    kind = registry.get("order_confirmation")
    kind.parse(payload)
    return kind.check_recipient(to), payload


def enqueue_confirmation(database: Session, order: Row, lines: Sequence[Row], url_template: str) -> None:
    """Enqueue the confirmation of an order."""
    to, payload = build_confirmation(order, lines, url_template)
    enqueue(database, "order_confirmation", to, payload, key=f"order:{order['id']}:confirmation")


def enqueue_status(database: Session, order: Row, status: str, note: str, url_template: str) -> bool:
    """Enqueue an `order_status`; False if the customer cannot or may not be told, which must hold nothing up."""
    if not order["can_be_notified"]:
        return False
    payload = _payload(order, url_template, status=status, note=note)
    try:
        with database.transaction():
            enqueue(database, "order_status", order["email"], payload, key=f"order:{order['id']}:{status}")
    except InvalidInput as exc:
        log.warning("order %s: the customer cannot be told that it is %s: %s", order["number"], status, exc)
        return False
    return True


def order_url(url_template: str, number: str) -> str:
    """The page of an order."""
    return url_template.replace("{order}", number)


def _payload(order: Row, url_template: str, **more: Any) -> dict[str, Any]:
    """What all have in common, and more; what is None is left out."""
    common = {"name": order["name"], "order": order["number"], "order_url": order_url(url_template, order["number"])}
    given = {**common, "language": order["language"], **more}
    return {name: value for name, value in given.items() if value is not None}


def _line_payload(line: Row) -> dict[str, Any]:
    """A line with its tax: so much for one piece, or, where that is no whole amount, for all of them."""
    each, rest = divmod(line["net_minor"] + line["tax_minor"], line["quantity"])
    if rest:
        description = f"{line['quantity']} × {line['description']}"  # noqa: RUF001
        return {"description": description, "quantity": 1, "unit_price": line["net_minor"] + line["tax_minor"]}
    return {"description": line["description"], "quantity": line["quantity"], "unit_price": each}


def _line_total(line: Row) -> int:
    return int(line["quantity"]) * int(line["unit_price"])
