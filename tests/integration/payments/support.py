"""A shop with orders to pay, and the sandbox's Stripe account."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg.rows import DictRow

from backline.channels.http.gateway import HttpGateway
from backline.payments.provider import PaymentState, ProviderPayment
from backline.payments.stripe_client import StripeProvider
from tests.integration.channels.sandbox import Sandbox

API_KEY = "sk_test_sandbox"
TIMEOUT = 5.0
CARD_VALID, CARD_INSUFFICIENT_FUNDS, CARD_STOLEN, CARD_NEEDS_AUTHENTICATION = (
    "pm_card_visa", "pm_card_visa_chargeDeclinedInsufficientFunds", "pm_card_visa_chargeDeclinedStolenCard",
    "pm_card_authenticationRequired",
)  # fmt: skip
PROVIDER_UNAVAILABLE: dict[str, Any] = {"status": 503, "body": {"error": {"type": "api_error"}}}
"""A fault of the account: it answers nothing, until it is taken away."""


@dataclass
class Shop:
    """The app's database, in autocommit."""

    database: psycopg.Connection[DictRow]

    def execute(self, query: LiteralString, *values: Any) -> list[DictRow]:
        cursor = self.database.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []

    def fetch_one(self, query: LiteralString, *values: Any) -> DictRow:
        [row] = self.execute(query, *values)
        return row

    def user(self, email: str | None = None) -> int:
        row = self.fetch_one(
            "INSERT INTO app.users (email, name, country, zone, state, verified_at) VALUES (coalesce(%s, 'u' || random() ||"
            " '@example.com'), 'Ann', 'DE', 'Europe/Berlin', 'active', clock_timestamp()) RETURNING id",
            email,
        )
        return int(row["id"])

    def product(self, stock: int = 100) -> int:
        product = self.fetch_one(
            "INSERT INTO app.products (sku, name, stock) VALUES ('P-' || nextval(pg_get_serial_sequence('app.products', 'id')),"
            " 'Coffee beans', %s) RETURNING id", stock,
        )["id"]  # fmt: skip
        if stock:
            self.execute(
                "INSERT INTO app.stock_movements (product_id, reason, quantity) VALUES (%s, 'received', %s)",
                product,
                stock,
            )
        return int(product)

    def order(
        self, method: str | None = CARD_VALID, *, price: int = 1000, user: int | None = None, state: str = "reserved"
    ) -> int:
        """An order of two of something, with its stock set aside, and the payment that its checkout made, if a method is given."""
        user, product = user or self.user(), self.product()
        with self.database.transaction():
            order = self.fetch_one(
                "INSERT INTO app.orders (number, user_id, currency, net_minor, tax_minor, ship_to_country) VALUES ('T-' ||"
                " nextval(pg_get_serial_sequence('app.orders', 'id')), %s, 'EUR', %s, %s, 'DE') RETURNING id",
                user, 2 * price, (2 * price * 1900 + 5000) // 10000,
            )["id"]  # fmt: skip
            self.execute(
                "INSERT INTO app.order_lines (order_id, number, product_id, description, quantity, unit_price_minor, tax_rate)"
                " VALUES (%s, 1, %s, 'Coffee beans', 2, %s, 1900)", order, product, price,
            )  # fmt: skip
        if state == "reserved":
            self.execute("UPDATE app.products SET reserved = 2 WHERE id = %s", product)
            self.execute(
                "UPDATE app.orders SET state = 'reserved', reserved_at = clock_timestamp() WHERE id = %s", order
            )
        if method is not None:
            self.checkout(order, method)
        return int(order)

    def checkout(self, order: int, method: str) -> None:
        self.execute(
            "INSERT INTO app.payments (order_id, provider, idempotency_key, method_reference, amount_minor, currency)"
            " SELECT id, 'stripe', 'order-' || number, %s, total_minor, currency FROM app.orders WHERE id = %s", method, order,
        )  # fmt: skip

    def change_method(self, order: int, method: str) -> None:
        self.execute("UPDATE app.payments SET method_reference = %s WHERE order_id = %s", method, order)

    def payment(self, order: int) -> DictRow:
        return self.fetch_one("SELECT * FROM app.payments WHERE order_id = %s", order)

    def state(self, order: int) -> tuple[str, str]:
        row = self.fetch_one(
            "SELECT o.state AS o, p.state AS p FROM app.orders AS o JOIN app.payments AS p ON p.order_id = o.id WHERE o.id = %s",
            order,
        )
        return row["o"], row["p"]

    def attempt_outcomes(self, order: int) -> list[str | None]:
        rows = self.execute(
            "SELECT t.outcome FROM app.payment_attempts AS t JOIN app.payments AS p ON p.id = t.payment_id WHERE p.order_id = %s"
            " ORDER BY t.number", order,
        )  # fmt: skip
        return [row["outcome"] for row in rows]

    def messages(self) -> list[tuple[str, dict[str, Any]]]:
        rows = self.execute("SELECT type, payload FROM backline.message ORDER BY id")
        return [(row["type"], row["payload"]) for row in rows]

    def invariant_violations(self) -> set[str]:
        """Rules across tables that do not hold, but for invoices, which nobody makes here."""
        from backline.db.statements import statement

        rows = self.database.execute(statement("reference_app", "invariant_violations")).fetchall()
        return {row["rule"] for row in rows if row["broken"] and "invoice" not in row["rule"]}


@dataclass
class Account:
    """The Stripe account of the sandbox."""

    sandbox: Sandbox

    @property
    def url(self) -> str:
        return self.sandbox.url("/stripe")

    def provider(self, key: str = API_KEY, timeout: float = TIMEOUT) -> StripeProvider:
        return StripeProvider(HttpGateway("stripe_api", self.url, password=key), timeout)

    def intents(self) -> list[dict[str, Any]]:
        answer = self.sandbox.web.get(
            "/stripe/v1/payment_intents?limit=100", headers={"Authorization": f"Bearer {API_KEY}"}
        )
        return list(answer.json()["data"])

    def charges(self, order_number: str = "") -> list[str]:
        found = self.sandbox.get("/stripe/api/messages", limit=1000)["messages"]
        return [one["title"] for one in reversed(found) if order_number in one["text"] or not one["text"]]

    def captured_minor(self) -> int:
        """What it has and has not given back, in minor units."""
        return sum(
            one.amount_minor - one.refunded_minor for one in self._list_payments() if one.state is PaymentState.CAPTURED
        )

    def captured_count(self) -> int:
        """How many payments were captured."""
        return sum(one.state is PaymentState.CAPTURED for one in self._list_payments())

    def refunded_count(self) -> int:
        """How many of them were given back whole."""
        return sum(
            one.state is PaymentState.CAPTURED and one.refunded_minor == one.amount_minor
            for one in self._list_payments()
        )

    def confirm_open_intents(self) -> None:
        """The customer pays what is open, on the provider's own page."""
        for intent in self.intents():
            answer = self.sandbox.web.post(
                f"/stripe/v1/payment_intents/{intent['id']}/confirm", data={"payment_method": CARD_VALID},
                headers={"Authorization": f"Bearer {API_KEY}"},
            )  # fmt: skip
            assert answer.status_code == 200, answer.text

    def _list_payments(self) -> list[ProviderPayment]:
        now = datetime.now(UTC)
        return list(self.provider().list_payments(now - timedelta(days=1), now + timedelta(days=1)))

    def set_faults(self, *rules: dict[str, Any]) -> None:
        answer = self.sandbox.web.put("/stripe/faults", json=list(rules))
        assert answer.status_code == 200, answer.text

    def expire_idempotency_keys(self) -> None:
        assert self.sandbox.web.delete("/stripe/api/keys").json()["deleted"] > 0

    def clear(self) -> None:
        self.set_faults()
        assert self.sandbox.web.delete("/stripe/api/account").status_code == 200
