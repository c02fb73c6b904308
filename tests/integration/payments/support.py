"""A shop with orders to pay, and the sandbox's Stripe account."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from backline.channels.http import HttpGateway
from backline.payments.provider import PaymentState, ProviderPayment
from backline.payments.stripe_client import StripeProvider
from tests.integration import shop
from tests.integration.channels.sandbox import Sandbox
from tests.integration.shop import (
    CARD_INSUFFICIENT_FUNDS,
    CARD_NEEDS_AUTHENTICATION,
    CARD_STOLEN,
    CARD_VALID,
)

__all__ = ["CARD_INSUFFICIENT_FUNDS", "CARD_NEEDS_AUTHENTICATION", "CARD_STOLEN", "CARD_VALID", "Account", "Shop"]

API_KEY = "sk_test_sandbox"
TIMEOUT = 5.0
PROVIDER_UNAVAILABLE: dict[str, Any] = {"status": 503, "body": {"error": {"type": "api_error"}}}
"""A fault of the account: it answers nothing, until it is taken away."""


class Shop(shop.Shop):
    """The shop as the tests of payments use it: each order is of two pieces of a product of its own."""

    user = shop.Shop.customer

    def order(  # type: ignore[override]
        self,
        method: str | None = CARD_VALID,
        *,
        price: int = 1000,
        user: int | None = None,
        state: str = "reserved",
        currency: str = "EUR",
    ) -> int:
        """An order with its stock set aside, and the payment that its checkout created, if a method is given."""
        line = shop.Line(2, price, product=self.product())
        return super().order(line, customer=user, state=state, card=method, currency=currency)

    def change_method(self, order: int, method: str) -> None:
        self.execute("UPDATE app.payments SET method_reference = %s WHERE order_id = %s", method, order)

    def state(self, order: int) -> tuple[str, str]:
        return self.order_state(order), self.payment(order)["state"]

    def messages(self) -> list[tuple[str, dict[str, Any]]]:  # type: ignore[override]
        return [(row["type"], row["payload"]) for row in super().messages()]

    def invariant_violations(self) -> set[str]:  # type: ignore[override]
        return set(super().invariant_violations())


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
            one.amount_minor - one.refunded_minor for one in self.list_payments() if one.state is PaymentState.CAPTURED
        )

    def captured_count(self) -> int:
        """How many payments were captured."""
        return sum(one.state is PaymentState.CAPTURED for one in self.list_payments())

    def refunded_count(self) -> int:
        """How many of them were given back whole."""
        return sum(
            one.state is PaymentState.CAPTURED and one.refunded_minor == one.amount_minor
            for one in self.list_payments()
        )

    def capture_part(self, intent: str, amount: int) -> None:
        """Somebody captures a part of it in the dashboard."""
        answer = self.sandbox.web.post("/stripe/api/capture", data={"payment_intent": intent, "amount": str(amount)})
        assert answer.status_code == 200, answer.text

    def refund(self, intent: str, amount: int) -> None:
        """Somebody refunds a part of it in the dashboard."""
        answer = self.sandbox.web.post(
            "/stripe/v1/refunds", data={"payment_intent": intent, "amount": str(amount)},
            headers={"Authorization": f"Bearer {API_KEY}"},
        )  # fmt: skip
        assert answer.status_code == 200, answer.text

    def decline_open_intents(self) -> None:
        """The customer confirms what is open with a card that has no funds, on the provider's own page."""
        self.confirm_open_intents(CARD_INSUFFICIENT_FUNDS, 402)

    def confirm_open_intents(self, card: str = CARD_VALID, status: int = 200) -> None:
        """The customer pays what is open, on the provider's own page."""
        for intent in self.intents():
            answer = self.sandbox.web.post(
                f"/stripe/v1/payment_intents/{intent['id']}/confirm", data={"payment_method": card},
                headers={"Authorization": f"Bearer {API_KEY}"},
            )  # fmt: skip
            assert answer.status_code == status, answer.text

    def list_payments(self) -> list[ProviderPayment]:
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
