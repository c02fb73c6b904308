"""`ingest_payment_webhook`: events that are posted to the hooks mark orders paid, within seconds and once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from demo.check import wait_until
from demo.context import DemoContext
from tests.acceptance.commerce.payments import paid_stack
from tests.unit.payments.signing import intent_event, razorpay_event

pytestmark = pytest.mark.stack


def test_a_stripe_event_pays_the_order(context: DemoContext, stack_exports: dict[str, str]) -> None:
    with paid_stack(context, stack_exports) as paid:
        order = paid.order()
        event = intent_event(
            f"evt_{context.tag}", "payment_intent.succeeded", datetime.now(UTC), reference=f"pi_{context.tag}", amount=2380,
            key=paid.shop.payment(order)["idempotency_key"],
        )  # fmt: skip
        assert [paid.post_event("stripe", event) for _ in range(2)] == [204, 204]
        assert wait_until(lambda: paid.shop.state(order) == ("paid", "captured"), "the order's payment")
        rows = paid.shop.execute(
            "SELECT processed_at FROM app.payment_events WHERE event_id = %s", f"evt_{context.tag}"
        )
        assert len(rows) == 1


def test_a_charged_subscription_gets_its_order(context: DemoContext, stack_exports: dict[str, str]) -> None:
    with paid_stack(context, stack_exports) as paid:
        user, product = paid.shop.user(f"sub@{context.domain('subs')}"), paid.shop.product()
        subscription = paid.shop.fetch_one(
            "INSERT INTO app.subscriptions (user_id, product_id, quantity, unit_price_minor, currency, anchor_day, zone, started_on,"
            " next_on, provider, provider_reference) SELECT %s, %s, 1, 50000, 'INR', extract(day FROM day), 'UTC', day, day,"
            " 'razorpay', %s FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS day) AS d RETURNING id",
            user, product, f"sub_{context.tag}",
        )["id"]  # fmt: skip
        event = razorpay_event(
            "subscription.charged",
            datetime.now(UTC),
            payment=f"pay_{context.tag}",
            amount=59500,  # with Germany's tax
            subscription=f"sub_{context.tag}",
        )
        assert paid.post_event("razorpay", event, f"E-{context.tag}") == 204
        find = "SELECT state FROM app.orders WHERE subscription_id = %s"
        [row] = wait_until(lambda: paid.shop.execute(find, subscription), "the subscription's order")
        assert row["state"] == "paid"
