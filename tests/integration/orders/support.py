"""The shop as the tests of orders use it: pending orders of given products, with shipping."""

from __future__ import annotations

from typing import Any

from tests.integration import shop
from tests.integration.shop import CARD_VALID


class Shop(shop.Shop):
    """Numbers its products and orders from 1."""

    state = shop.Shop.order_state

    def product(self, stock: int = 10, **columns: Any) -> int:
        """A product with so many pieces in stock."""
        number = self.fetch_value("SELECT count(*) FROM app.products") + 1
        return super().product(stock, **{"sku": f"CUP-{number}", "name": f"Cup {number}", **columns})

    def customer(self, email: str | None = "ann@example.com", **columns: Any) -> int:
        """An active customer."""
        return super().customer(email, **columns)

    def order(  # type: ignore[override]
        self, customer: int, *lines: tuple[int, int], card: str | None = CARD_VALID, price: int = 1000
    ) -> int:
        """A pending order of (product, quantity) lines at 19 % tax, with a payment by that card that was not attempted."""
        return super().order(
            *(shop.Line(quantity, price, 1900, f"Cup {product}", product) for product, quantity in lines),
            customer=customer, state="pending", card=card, shipping_minor=490,
            number=f"O-{self.fetch_value('SELECT count(*) FROM app.orders') + 1:04d}",
            promised_on=self.fetch_value("SELECT current_date + 5"),
        )  # fmt: skip

    def messages(self, type_pattern: str = r"order\_%") -> list[dict[str, Any]]:
        """What was enqueued of a type, else about orders, oldest first."""
        return super().messages(type_pattern)
