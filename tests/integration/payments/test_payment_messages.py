"""Messages never decide about a payment: it is captured, declined and retried whatever the customer's name and address are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backline.messages import registry
from backline.payments.charges import charge
from backline.payments.ingest_payment_webhook import ingest_payment_webhook
from backline.payments.process_payment import process_payment
from backline.payments.retry_failed_payments import retry_failed_payments
from backline.payments.settings import PaymentSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration.job_factory import create_job
from tests.integration.payments.support import (
    CARD_INSUFFICIENT_FUNDS,
    CARD_NEEDS_AUTHENTICATION,
    CARD_VALID,
    Account,
    Shop,
)
from tests.integration.payments.test_ingest_payment_webhook import TOTAL, idempotency_key, receive_event
from tests.integration.payments.test_retry_failed_payments import make_due
from tests.unit.payments.signing import intent_event, razorpay_event

CONFIG = PaymentSettings()
REFUSED_EMAIL = "no.such@address"
ODD_NAMES = ["n" * 201, "n" * 10_000, "Ann\tLee", "Ann\nLee", r"\u0000", " \t", "🏳️‍🌈" * 200, "\u202eRTL\u200f"]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=300)


def letters(shop: Shop) -> list[str]:
    rows = shop.execute("SELECT run_id FROM backline.dead_letter WHERE kind = 'job' ORDER BY id")
    return [row["run_id"] for row in rows]


def ingest(database: str) -> dict[str, int]:
    result: dict[str, Any] = create_job(database, CONFIG, name="ingest_payment_webhook").execute(ingest_payment_webhook)
    assert result["failed"] == 0
    outcomes: dict[str, int] = result["outcomes"]
    return outcomes


def receive_capture(shop: Shop, order: int) -> None:
    event = intent_event(
        f"evt_{order}", "payment_intent.succeeded", datetime.now(UTC), reference=f"pi_{order}", amount=TOTAL,
        key=idempotency_key(shop, order),
    )  # fmt: skip
    receive_event(shop, event)


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name[:12]))
def test_an_event_of_an_odd_customer_captures(name: str, database: str, shop: Shop) -> None:
    order = shop.order(user=shop.user(name=name))
    receive_capture(shop, order)
    assert ingest(database) == {"applied": 1}
    assert (shop.state(order), letters(shop)) == (("paid", "captured"), [])
    [(kind, payload)] = shop.messages()
    registry.get(kind).parse(payload).rendered()  # type: ignore[attr-defined]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANY_TEXT, ANY_TEXT)
def test_the_outcome_of_any_text_is_that_of_a_plain_one(database: str, shop: Shop, name: str, number: str) -> None:
    order = shop.order(user=shop.user(name=name))
    shop.execute("UPDATE app.orders SET number = %s || id WHERE id = %s", number, order)
    receive_capture(shop, order)
    assert ingest(database) == {"applied": 1}
    assert (shop.state(order), letters(shop)) == (("paid", "captured"), [])
    shop.execute("DELETE FROM app.payment_events")


def test_captured_money_is_booked_although_no_receipt_can_be_sent(database: str, shop: Shop) -> None:
    order = shop.order(user=shop.user(email=REFUSED_EMAIL))
    receive_capture(shop, order)
    assert ingest(database) == {"applied": 1, "unsent_messages": 1}
    assert (shop.state(order), shop.messages(), letters(shop)) == (("paid", "captured"), [], [f"order:{order}:receipt"])
    assert ingest(database) == {}
    assert shop.invariant_violations() == set()


def test_a_charge_counts_what_could_not_be_sent(database: str, shop: Shop, account: Account) -> None:
    order = shop.order(user=shop.user(email=REFUSED_EMAIL))
    provider = account.provider()
    for unsent in (1, 0):  # the second run finds it paid
        result = create_job(database, CONFIG, params={"order_id": order}, provider=provider).execute(process_payment)
        assert (result["state"], result["unsent_messages"]) == ("paid", unsent)
    assert (account.captured_count(), account.refunded_count(), letters(shop)) == (1, 0, [f"order:{order}:receipt"])


@pytest.mark.parametrize(("email", "unsent"), [(None, {}), (REFUSED_EMAIL, {"unsent_messages": 1})])
def test_a_declined_payment_is_retried_by_the_schedule(
    email: str | None, unsent: dict[str, int], database: str, shop: Shop, provider: StripeProvider, account: Account
) -> None:
    order = shop.order(CARD_INSUFFICIENT_FUNDS, user=shop.user(email=email, name="Ann\tLee" * 50))
    declined = charge(shop.database, provider, order)
    assert (declined.state, declined.unsent_messages) == ("declined", len(unsent))
    assert declined.next_attempt_at == shop.payment(order)["next_attempt_at"]
    for outcome in ("declined", "paid"):
        make_due(shop)
        result = create_job(database, CONFIG, provider=provider, params={"auto_decision": ""}).execute(
            retry_failed_payments
        )
        assert (result["retried"]["outcomes"], result["retried"]["failed"]) == ({outcome: 1, **unsent}, 0)
        shop.change_method(order, CARD_VALID)
    assert shop.state(order) == ("paid", "captured")
    assert (account.captured_count(), len(shop.messages()), len(letters(shop))) == (
        1,
        0 if unsent else 3,
        3 * len(unsent),
    )


def test_a_customer_who_must_act_and_cannot_be_notified_may_still_pay(
    shop: Shop, provider: StripeProvider, account: Account
) -> None:
    order = shop.order(CARD_NEEDS_AUTHENTICATION, user=shop.user(email=REFUSED_EMAIL))
    asked = charge(shop.database, provider, order)
    assert (asked.state, asked.unsent_messages) == ("needs_action", 1)
    account.confirm_open_intents()
    assert charge(shop.database, provider, order).state == "paid"


def test_a_charged_subscription_is_renewed_and_paid(database: str, shop: Shop) -> None:
    today = datetime.now(UTC).date()
    customer = shop.user(name="n" * 300, email=REFUSED_EMAIL, zone="UTC", country="IN")
    one = shop.subscription(
        today,
        customer,
        currency="INR",
        provider="razorpay",
        provider_reference="sub_1",
        started_on=today,
        anchor_day=today.day,
    )
    receive_event(
        shop, razorpay_event("subscription.charged", datetime.now(UTC), payment="pay_1", amount=2360, subscription="sub_1"),
        "razorpay", "evt_1",
    )  # fmt: skip
    assert ingest(database) == {"applied": 1, "unsent_messages": 1}
    order = shop.fetch_one("SELECT id, state::text FROM app.orders WHERE subscription_id = %s", one)
    assert order["state"] == "paid"
    assert letters(shop) == [f"order:{order['id']}:confirmation", f"order:{order['id']}:receipt"]
