"""A confirmation adds up: for any quantities, prices and tax rates, in the payload and in the text that the customer reads."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from backline.messages import registry
from backline.messages.types.commerce import OrderConfirmation
from backline.orders.notifications import Confirmation, build_confirmation
from backline.orders.repository import PricedLine
from backline.subscriptions.rules import line_amounts

LINES = st.builds(
    lambda quantity, price, rate: PricedLine("Coffee beans", quantity, *line_amounts(quantity, price, rate)),
    st.integers(1, 2000), st.integers(1, 100_000), st.integers(0, 10_000),
)  # fmt: skip
AMOUNT = re.compile(r"€([\d,]+\.\d\d)$", re.MULTILINE)


def confirmation(lines: list[PricedLine], shipping: int) -> Confirmation:
    tax = sum(line.tax_minor for line in lines)
    return Confirmation(
        order_id=1, number="O-1", placed_at=datetime(2026, 3, 1, tzinfo=UTC), name="Ann", email="ann@example.com", phone=None,
        language="en", zone="UTC", currency="EUR", lines=lines, shipping_minor=shipping, tax_minor=tax,
        total_minor=sum(line.net_minor for line in lines) + tax + shipping,
    )  # fmt: skip


def shown_minor(text: str, name: str) -> int:
    """The amount of a line of the text."""
    [line] = [line for line in text.splitlines() if line.startswith(f"{name}: ")]
    [amount] = AMOUNT.findall(line)
    return int(amount.replace(",", "").replace(".", ""))


@given(st.lists(LINES, min_size=1, max_size=120), st.integers(1, 100_000))
def test_the_lines_and_shipping_are_the_total(lines: list[PricedLine], shipping: int) -> None:
    payload = build_confirmation(confirmation(lines, shipping), "https://shop.example/{order}")
    registry.get("order_confirmation").parse(payload)
    shown = sum(line["quantity"] * line["unit_price"] for line in payload["lines"])
    assert shown + payload["shipping"] - payload.get("discount", 0) == payload["total"]
    assert payload["tax"] == sum(line.tax_minor for line in lines)


@settings(max_examples=25, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=5), st.integers(1, 100_000))
def test_the_text_adds_up(lines: list[PricedLine], shipping: int) -> None:
    payload = build_confirmation(confirmation(lines, shipping), "https://shop.example/{order}")
    _, text, _ = OrderConfirmation.parse(payload).rendered()
    sold = [line for line in text.splitlines() if " × Coffee beans: " in line]  # noqa: RUF001
    amounts = [int(re.sub(r"\D", "", AMOUNT.findall(line)[0])) for line in sold]
    assert len(amounts) == len(lines)
    assert sum(amounts) + shown_minor(text, "Shipping") == shown_minor(text, "Total")
    assert shown_minor(text, "Tax included") == sum(line.tax_minor for line in lines) or not payload["tax"]


def test_a_quantity_that_no_message_can_show_is_part_of_the_description() -> None:
    line = PricedLine("Screw", 2_000_000, 2_000_000, 0)
    [shown] = build_confirmation(confirmation([line], 0), "https://shop.example/{order}")["lines"]
    assert shown == {"description": "2000000 × Screw", "quantity": 1, "unit_price": 2_000_000}  # noqa: RUF001
