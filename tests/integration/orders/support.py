"""A small shop in the reference app's tables, and the questions whether its money, stock and orders agree."""

from __future__ import annotations

from typing import Any

from backline.db.connect import Session
from backline.db.statements import statement
from tests.integration.payments.support import CARD_VALID

INVOICE_INVARIANT = "a paid order has an invoice of its total, a refunded one a credit note"
"""Of all rules across tables the one that another job keeps: it writes the invoices."""


class Shop:
    """Makes products, people and orders; `database` is in autocommit."""

    def __init__(self, database: Session) -> None:
        self.database = database

    def fetch_one(self, query: str, *values: object) -> dict[str, Any]:
        """The first row."""
        row = self.database.execute(query, values).fetchone()  # type: ignore[call-overload]
        assert row is not None, query
        found: dict[str, Any] = row
        return found

    def product(self, stock: int = 10) -> int:
        """A product with so much on the shelf."""
        number = self.fetch_one("SELECT count(*) AS made FROM app.products")["made"] + 1
        made = self.fetch_one(
            "INSERT INTO app.products (sku, name, stock) VALUES (%s, %s, %s) RETURNING id",
            f"CUP-{number}", f"Cup {number}", stock,
        )["id"]  # fmt: skip
        if stock:
            self.database.execute(
                "INSERT INTO app.stock_movements (product_id, reason, quantity) VALUES (%s, 'received', %s)",
                [made, stock],
            )
        return int(made)

    def customer(self, email: str = "ann@example.com", **more: Any) -> int:
        """An active customer."""
        values = {"name": "Ann", "phone": None, "zone": "Europe/Berlin", "language": "en", **more}
        return int(
            self.fetch_one(
                "INSERT INTO app.users (email, name, phone, country, zone, language, state, created_at, verified_at, channels)"
                " VALUES (%s, %s, %s, 'DE', %s, %s, 'active', now() - interval '90 days', now() - interval '90 days', %s)"
                " RETURNING id",
                email, values["name"], values["phone"], values["zone"], values["language"],
                ["email", "sms"] if values["phone"] else ["email"],
            )["id"]
        )  # fmt: skip

    def order(self, customer: int, *lines: tuple[int, int], card: str | None = CARD_VALID, price: int = 1000) -> int:
        """A pending order of (product, quantity) lines at 19 % tax, with a payment by that card that was not yet tried."""
        number = f"O-{self.fetch_one('SELECT count(*) AS made FROM app.orders')['made'] + 1:04d}"
        net = sum(quantity * price for _, quantity in lines)
        tax = sum((quantity * price * 1900 + 5000) // 10000 for _, quantity in lines)
        with self.database.transaction():
            made = self.fetch_one(
                "INSERT INTO app.orders (number, user_id, currency, net_minor, tax_minor, shipping_minor, ship_to_country,"
                " promised_on) VALUES (%s, %s, 'EUR', %s, %s, 490, 'DE', current_date + 5) RETURNING id, total_minor",
                number, customer, net, tax,
            )  # fmt: skip
            for place, (product, quantity) in enumerate(lines, 1):
                self.database.execute(
                    "INSERT INTO app.order_lines (order_id, number, product_id, description, quantity, unit_price_minor,"
                    " tax_rate) VALUES (%s, %s, %s, %s, %s, %s, 1900)",
                    [made["id"], place, product, f"Cup {product}", quantity, price],
                )
            if card:
                self.database.execute(
                    "INSERT INTO app.payments (order_id, provider, idempotency_key, method_reference, amount_minor, currency)"
                    " VALUES (%s, 'stripe', %s, %s, %s, 'EUR')",
                    [made["id"], f"order-{number}", card, made["total_minor"]],
                )
        return int(made["id"])

    def backdate(self, order: int, hours: float) -> None:
        """Make all that has happened to an order so much longer ago."""
        self.database.execute(
            "UPDATE app.orders AS o SET placed_at = placed_at - a, reserved_at = reserved_at - a, paid_at = paid_at - a,"
            " confirmed_at = confirmed_at - a, shipped_at = shipped_at - a, delivered_at = delivered_at - a,"
            " cancelled_at = cancelled_at - a"
            " FROM make_interval(secs => %s) AS a WHERE o.id = %s", [hours * 3600, order],
        )  # fmt: skip

    def deliver(self, order: int) -> None:
        """Ship a confirmed order, and have it arrive."""
        with self.database.transaction():
            self.database.execute(
                "INSERT INTO app.stock_movements (product_id, reason, quantity, order_line_id)"
                " SELECT product_id, 'sold', -quantity, id FROM app.order_lines WHERE order_id = %s", [order],
            )  # fmt: skip
            self.database.execute(
                "UPDATE app.products AS p SET stock = stock - l.quantity, reserved = reserved - l.quantity"
                " FROM app.order_lines AS l WHERE l.product_id = p.id AND l.order_id = %s", [order],
            )  # fmt: skip
            for state in ("shipped", "delivered"):
                self.database.execute(
                    "UPDATE app.orders SET state = %s, shipped_at = coalesce(shipped_at, clock_timestamp()),"
                    " delivered_at = CASE WHEN %s = 'delivered' THEN clock_timestamp() END,"
                    " carrier = 'parcel_one', tracking_number = 'T1' WHERE id = %s", [state, state, order],
                )  # fmt: skip

    def state(self, order: int) -> str:
        return str(self.fetch_one("SELECT state::text FROM app.orders WHERE id = %s", order)["state"])

    def reserved(self, product: int) -> int:
        return int(self.fetch_one("SELECT reserved FROM app.products WHERE id = %s", product)["reserved"])

    def messages(self, type_name: str | None = None) -> list[dict[str, Any]]:
        """What was enqueued of a type, else what orders have told, oldest first."""
        query = "SELECT type, channel, recipient, payload FROM backline.message WHERE type LIKE %s ORDER BY id"
        return self.database.execute(query, [type_name or r"order\_%"]).fetchall()

    def invariant_violations(self) -> dict[str, int]:
        """The rules across the tables of money, stock and orders that do not hold, with how many rows break each."""
        rows = self.database.execute(statement("reference_app", "invariant_violations")).fetchall()
        return {row["rule"]: row["broken"] for row in rows if row["rule"] != INVOICE_INVARIANT}
