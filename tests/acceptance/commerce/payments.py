"""The running stack's shop, its Stripe account, and its hooks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from demo.context import DemoContext
from stack.reference_app import apply_schema
from tests.integration.payments.support import Shop
from tests.unit.payments.signing import as_body, razorpay_headers, stripe_headers

_NUMBERS = count()


@dataclass
class PaymentStack:
    """What the tests of payments need of a running stack."""

    context: DemoContext
    shop: Shop
    exports: dict[str, str]

    def order(self, method: str | None = "pm_card_visa", *, price: int = 1000, name: str = "pay") -> int:
        return self.shop.order(
            method, price=price, user=self.shop.user(f"u{next(_NUMBERS)}@{self.context.domain(name)}")
        )

    def charges(self, order: int) -> list[str]:
        """What the provider has charged for an order."""
        number = self.shop.fetch_one("SELECT number FROM app.orders WHERE id = %s", order)["number"]
        found = httpx.get(f"{self.exports['BACKLINE_MAIL_URL']}/stripe/api/messages", params={"limit": 1000}).json()[
            "messages"
        ]
        return [one["title"] for one in found if one["text"] == f"Order {number}"]

    def faults(self, *rules: dict[str, Any]) -> None:
        assert httpx.put(f"{self.exports['BACKLINE_MAIL_URL']}/stripe/faults", json=list(rules)).status_code == 200

    def post_event(self, name: str, event: dict[str, Any], event_id: str = "") -> int:
        """Post an event to a hook as its provider does; returns the answer's status."""
        secret = json.loads(self.exports[f"AIRFLOW_CONN_{name.upper()}_HOOKS"])["password"]
        body = as_body(event)
        signed = (
            stripe_headers(body, datetime.now(UTC), secret)
            if name == "stripe"
            else razorpay_headers(body, event_id, secret)
        )
        return httpx.post(
            f"{self.exports['BACKLINE_URL']}/backline/hooks/{name}", content=body, headers=signed
        ).status_code


@contextmanager
def paid_stack(context: DemoContext, exports: dict[str, str]) -> Iterator[PaymentStack]:
    """With the reference app's tables; at its end the provider is well."""
    apply_schema(exports["BACKLINE_DATABASE_URL"])
    with psycopg.connect(exports["BACKLINE_DATABASE_URL"], autocommit=True, row_factory=dict_row) as connection:
        found = PaymentStack(context, Shop(connection), exports)
        found.faults()
        yield found
        found.faults()
