"""One small shop in the reference app's tables, for every test that needs customers, orders and payments."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, LiteralString

from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier, Placeholder

from backline.db.connect import Session
from backline.db.statements import statement

CARD_VALID, CARD_INSUFFICIENT_FUNDS, CARD_STOLEN, CARD_NEEDS_AUTHENTICATION = (
    "pm_card_visa", "pm_card_visa_chargeDeclinedInsufficientFunds", "pm_card_visa_chargeDeclinedStolenCard",
    "pm_card_authenticationRequired",
)  # fmt: skip
ACCOUNT_AGE = timedelta(days=90)
DURATION = timedelta(milliseconds=1)
"""Of a payment attempt."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an order; prices in minor units, `tax_rate` in basis points."""

    quantity: int = 1
    price: int = 1000
    tax_rate: int = 1900
    description: str = "Coffee beans"
    product: int | None = None
    """None: the shop's default product."""

    @property
    def tax_minor(self) -> int:
        return (self.quantity * self.price * self.tax_rate + 5000) // 10000


class Shop:
    """Inserts rows and asks questions about them; what it inserts keeps all rules across tables, except those of invoices.

    `database` is in autocommit.
    """

    def __init__(self, database: Session) -> None:
        self.database = database
        self._default_product: int | None = None

    def execute(self, query: LiteralString, *values: Any) -> list[DictRow]:
        """Run a statement; its rows, if it returns any."""
        cursor = self.database.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []

    def fetch_one(self, query: LiteralString, *values: Any) -> DictRow:
        """The only row."""
        [row] = self.execute(query, *values)
        return row

    def fetch_value(self, query: LiteralString, *values: Any) -> Any:
        """The only column of the only row."""
        [value] = self.fetch_one(query, *values).values()
        return value

    def insert(self, table: LiteralString, **values: Any) -> int:
        """Insert a row of the app; its id."""
        query = SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
            Identifier("app", table), SQL(", ").join(map(Identifier, values)), SQL(", ").join(map(Placeholder, values))
        )
        [row] = self.database.execute(query, values).fetchall()
        return int(row["id"])

    def customer(self, email: str | None = None, **columns: Any) -> int:
        """An active customer, who has had an account for 90 days."""
        created_at = columns.get("created_at", datetime.now(UTC) - ACCOUNT_AGE)
        return self.insert("users", **{
            "email": email or f"customer-{secrets.token_hex(6)}@example.com", "name": "Ann", "country": "DE",
            "zone": "Europe/Berlin", "state": "active", "created_at": created_at, "verified_at": created_at,
            "channels": ["email", "sms"] if columns.get("phone") else ["email"], **columns,
        })  # fmt: skip

    def product(self, stock: int = 100, **columns: Any) -> int:
        """A product with so many pieces in stock."""
        values = {"sku": f"P-{secrets.token_hex(6).upper()}", "name": "Coffee beans", "stock": stock, **columns}
        product = self.insert("products", **values)
        if stock:
            self.insert("stock_movements", product_id=product, reason="received", quantity=stock)
        return product

    def order(
        self,
        *lines: Line,
        customer: int | None = None,
        state: str = "reserved",
        card: str | None = None,
        at: datetime | None = None,
        **columns: Any,
    ) -> int:
        """An order of these lines, or of one, placed at `at` or now; `state` is pending, reserved or paid.

        `card`: the checkout's payment, which has not been attempted, with that card.
        """
        lines = lines or (Line(),)
        if self._default_product is None and any(line.product is None for line in lines):
            self._default_product = self.product(1_000_000)
        customer = customer or self.customer()
        with self.database.transaction():
            order = self.insert("orders", **{
                "number": f"T-{secrets.token_hex(6).upper()}", "user_id": customer, "currency": "EUR",
                "net_minor": sum(line.quantity * line.price for line in lines),
                "tax_minor": sum(line.tax_minor for line in lines), "ship_to_country": "DE",
                **({"placed_at": at} if at else {}), **columns,
            })  # fmt: skip
            for number, line in enumerate(lines, 1):
                self.insert(
                    "order_lines", order_id=order, number=number, product_id=line.product or self._default_product,
                    description=line.description, quantity=line.quantity, unit_price_minor=line.price,
                    tax_rate=line.tax_rate,
                )  # fmt: skip
        if state != "pending":
            self.reserve(order, at)
        if card is not None:
            self.checkout(order, card)
        if state == "paid":
            self.pay(order)
        return order

    def reserve(self, order: int, at: datetime | None = None) -> None:
        """Set the order's stock aside."""
        self._reserve_stock(order, 1)
        self.execute(
            "UPDATE app.orders SET state = 'reserved', reserved_at = coalesce(%s, clock_timestamp()) WHERE id = %s",
            at, order,
        )  # fmt: skip

    def checkout(self, order: int, card: str) -> int:
        """The order's payment as its checkout creates it: pending, not attempted; its id."""
        return self.add_payment(order, "pending", attempted=False, method_reference=card)

    def pay(self, order: int, reference: str | None = None) -> int:
        """Capture the whole amount of a reserved order; the payment's id."""
        return self.add_payment(order, "captured", reference=reference or f"pi_{secrets.token_hex(6)}")

    def add_payment(
        self,
        order: int,
        state: str,
        *,
        reference: str | None = None,
        at: datetime | None = None,
        attempted: bool = True,
        **columns: Any,
    ) -> int:
        """A payment of the order with its one attempt; `at` is when it began. Captured, it pays the order."""
        row = self.fetch_one("SELECT * FROM app.orders WHERE id = %s", order)
        started_at = at or row["reserved_at"] or row["placed_at"]
        ended_at = started_at + DURATION
        decline = {"failed": "soft", "abandoned": "hard"}.get(state)
        declined = {"decline_kind": decline, "decline_code": "declined"} if decline else {}
        outcome = "declined" if decline else "captured" if state == "captured" else None
        with self.database.transaction():
            payment = self.insert("payments", **{
                "order_id": order, "provider": "stripe", "provider_reference": reference,
                "idempotency_key": f"order-{row['number']}", "amount_minor": row["total_minor"],
                "currency": row["currency"], "state": state, "attempts": int(attempted), "created_at": started_at,
                "captured_at": ended_at if state == "captured" else None, "failed_at": ended_at if decline else None,
                "abandoned_at": ended_at if state == "abandoned" else None, **declined, **columns,
            })  # fmt: skip
            if attempted:
                self.execute(
                    "INSERT INTO app.payment_attempts (payment_id, number, started_at, ended_at, outcome, decline_kind,"
                    " decline_code) VALUES (%s, 1, %s, %s, %s, %s, %s)",
                    payment, started_at, ended_at if outcome else None, outcome, decline, declined.get("decline_code"),
                )  # fmt: skip
            if state == "captured":
                self.execute("UPDATE app.orders SET state = 'paid', paid_at = %s WHERE id = %s", ended_at, order)
        return payment

    def refund(self, order: int) -> None:
        """Refund a paid order in full, and release its stock."""
        with self.database.transaction():
            self.execute(
                "UPDATE app.payments SET refunded_minor = amount_minor WHERE order_id = %s AND state = 'captured'",
                order,
            )
            self.execute(
                "INSERT INTO app.refunds (payment_id, provider_reference, amount_minor, currency, reason, state, created_at,"
                " ended_at) SELECT id, 're_' || id, amount_minor, currency, 'returned', 'succeeded', captured_at,"
                " clock_timestamp() FROM app.payments WHERE order_id = %s AND state = 'captured'", order,
            )  # fmt: skip
            self._reserve_stock(order, -1)
            self.execute(
                "UPDATE app.orders SET state = 'refunded', refunded_at = clock_timestamp() WHERE id = %s", order
            )

    def deliver(self, order: int) -> None:
        """Ship a confirmed order and deliver it."""
        with self.database.transaction():
            self.execute(
                "INSERT INTO app.stock_movements (product_id, reason, quantity, order_line_id)"
                " SELECT product_id, 'sold', -quantity, id FROM app.order_lines WHERE order_id = %s", order,
            )  # fmt: skip
            self.execute(
                "UPDATE app.products AS p SET stock = p.stock - l.quantity, reserved = p.reserved - l.quantity"
                " FROM (SELECT product_id, sum(quantity) AS quantity FROM app.order_lines WHERE order_id = %s GROUP BY 1)"
                " AS l WHERE l.product_id = p.id", order,
            )  # fmt: skip
            for state in ("shipped", "delivered"):
                self.execute(
                    "UPDATE app.orders SET state = %s, shipped_at = coalesce(shipped_at, clock_timestamp()),"
                    " delivered_at = CASE WHEN %s = 'delivered' THEN clock_timestamp() END,"
                    " carrier = 'parcel_one', tracking_number = 'T1' WHERE id = %s", state, state, order,
                )  # fmt: skip

    def backdate(self, order: int, hours: float) -> None:
        """Move everything that has happened to an order so many hours into the past."""
        self.execute(
            "UPDATE app.orders AS o SET placed_at = placed_at - a, reserved_at = reserved_at - a, paid_at = paid_at - a,"
            " confirmed_at = confirmed_at - a, shipped_at = shipped_at - a, delivered_at = delivered_at - a,"
            " cancelled_at = cancelled_at - a, refunded_at = refunded_at - a"
            " FROM make_interval(secs => %s) AS a WHERE o.id = %s", hours * 3600, order,
        )  # fmt: skip

    def subscription(
        self, next_on: date | None, customer: int | None = None, product: int | None = None, **columns: Any
    ) -> int:
        """A monthly subscription of two pieces, due on `next_on`."""
        anchor_day = next_on.day if next_on else 1
        return self.insert("subscriptions", **{
            "user_id": customer or self.customer(zone="UTC"), "product_id": product or self.product(), "quantity": 2,
            "unit_price_minor": 1000, "currency": "EUR", "anchor_day": anchor_day, "zone": "UTC",
            "started_on": date(2025, 1, anchor_day), "next_on": next_on, **columns,
        })  # fmt: skip

    def payment(self, order: int) -> DictRow:
        """The order's only payment."""
        return self.fetch_one("SELECT * FROM app.payments WHERE order_id = %s", order)

    def attempt_outcomes(self, order: int) -> list[str | None]:
        """How the attempts of the order's payments ended, in order; None for one without an end."""
        rows = self.execute(
            "SELECT t.outcome FROM app.payment_attempts AS t JOIN app.payments AS p ON p.id = t.payment_id"
            " WHERE p.order_id = %s ORDER BY t.number", order,
        )  # fmt: skip
        return [row["outcome"] for row in rows]

    def order_state(self, order: int) -> str:
        """The order's state."""
        return str(self.fetch_value("SELECT state::text FROM app.orders WHERE id = %s", order))

    def reserved(self, product: int) -> int:
        """How many pieces of a product are reserved."""
        return int(self.fetch_value("SELECT reserved FROM app.products WHERE id = %s", product))

    def messages(self, type_pattern: str = "%") -> list[DictRow]:
        """The messages of the types that a LIKE pattern matches, oldest first."""
        return self.execute("SELECT * FROM backline.message WHERE type LIKE %s ORDER BY id", type_pattern)

    def invariant_violations(self, *, invoices: bool = False) -> dict[str, int]:
        """Violated rules across tables with their number of rows; those about invoices, which one job creates, on request."""
        rows = self.database.execute(statement("reference_app", "invariant_violations")).fetchall()
        return {row["rule"]: row["broken"] for row in rows if invoices or "invoice" not in row["rule"]}

    def _reserve_stock(self, order: int, sign: int) -> None:
        self.execute(
            "UPDATE app.products AS p SET reserved = p.reserved + %s * l.quantity FROM (SELECT product_id, sum(quantity) AS"
            " quantity FROM app.order_lines WHERE order_id = %s GROUP BY 1) AS l WHERE l.product_id = p.id", sign, order,
        )  # fmt: skip
