"""Orders to invoice, in a database with the reference app's data."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg.rows import DictRow

from backline.invoices.settings import InvoiceSettings

CONFIG = InvoiceSettings(seller_name="Cup & Saucer GmbH", seller_tax_id="DE123456789")
PAY: LiteralString = """
WITH o AS (
    UPDATE app.orders SET state = 'paid', paid_at = clock_timestamp() WHERE id = ANY (%(ids)s) RETURNING id)
SELECT id FROM o
"""
PLACE: LiteralString = """
WITH buyer AS (
    SELECT * FROM app.users WHERE id = %(user_id)s
), placed AS (
    INSERT INTO app.orders (number, user_id, currency, net_minor, tax_minor, shipping_minor, ship_to_country)
    SELECT %(number)s, b.id, %(currency)s, %(net)s, %(tax)s, %(shipping)s, %(country)s FROM buyer AS b RETURNING id
), lines AS (
    INSERT INTO app.order_lines (order_id, number, product_id, description, quantity, unit_price_minor, tax_rate)
    SELECT p.id, l.place, 1, l.description, l.quantity, l.price, l.rate
    FROM placed AS p, unnest(%(descriptions)s::text[], %(quantities)s::integer[], %(prices)s::bigint[],
        %(rates)s::integer[]) WITH ORDINALITY AS l (description, quantity, price, rate, place)
)
SELECT id FROM placed
"""


def place_order(
    connection: psycopg.Connection[DictRow],
    number: str,
    lines: list[tuple[str, int, int, int]],
    *,
    shipping: int = 490,
    currency: str = "EUR",
    country: str = "DE",
    user_id: int = 1,
    paid: bool = True,
) -> int:
    """An order of these lines (description, quantity, price, rate), paid a moment ago."""
    values: dict[str, Any] = {
        "number": number, "currency": currency, "country": country, "user_id": user_id, "shipping": shipping,
        "net": sum(quantity * price for _, quantity, price, _ in lines),
        "tax": sum((quantity * price * rate + 5000) // 10000 for _, quantity, price, rate in lines),
        "descriptions": [line[0] for line in lines], "quantities": [line[1] for line in lines],
        "prices": [line[2] for line in lines], "rates": [line[3] for line in lines],
    }  # fmt: skip
    with connection.transaction():
        row = connection.execute(PLACE, values).fetchone()
        assert row is not None
        order_id = int(row["id"])
        if paid:
            connection.execute(
                "UPDATE app.orders SET state = 'reserved', reserved_at = clock_timestamp() WHERE id = %s", [order_id]
            )
            connection.execute(PAY, {"ids": [order_id]})
    return order_id


def refund_order(connection: psycopg.Connection[DictRow], order_id: int) -> None:
    """The order's money has gone back."""
    connection.execute(
        "UPDATE app.orders SET state = 'refunded', refunded_at = clock_timestamp() WHERE id = %s", [order_id]
    )
