from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backline.delivery_events.events import InvalidSignature
from backline.errors import InvalidInput
from backline.payments import razorpay_events, stripe_events
from tests.unit.payments.signing import (
    RAZORPAY_SECRET,
    STRIPE_SECRET,
    as_body,
    intent_event,
    razorpay_event,
    razorpay_headers,
    stripe_headers,
)

NOW = datetime.now(UTC).replace(microsecond=0)
SUCCEEDED = intent_event("evt_1", "payment_intent.succeeded", NOW, reference="pi_1", amount=1999, key="order-7")
CHARGED = razorpay_event("subscription.charged", NOW, payment="pay_1", amount=49900, subscription="sub_1")


def test_stripes_event_is_read() -> None:
    body = as_body(SUCCEEDED)
    event = stripe_events.verify_stripe_event(stripe_headers(body, datetime.now(UTC)), body, STRIPE_SECRET)
    assert (event.provider, event.event_id, event.type, event.occurred_at) == (
        "stripe",
        "evt_1",
        "payment_intent.succeeded",
        NOW,
    )
    assert event.body == SUCCEEDED


def test_razorpays_event_is_read() -> None:
    body = as_body(CHARGED)
    event = razorpay_events.verify_razorpay_event(razorpay_headers(body, "E1"), body, RAZORPAY_SECRET, NOW)
    assert (event.provider, event.event_id, event.type, event.occurred_at) == (
        "razorpay",
        "E1",
        "subscription.charged",
        NOW,
    )
    assert event.body == CHARGED


def test_the_raw_bytes_are_what_is_signed() -> None:
    for body, headers in ((as_body(SUCCEEDED), stripe_headers),):
        with pytest.raises(InvalidSignature):
            stripe_events.verify_stripe_event(
                headers(body, datetime.now(UTC)), body.replace(b": ", b":"), STRIPE_SECRET
            )
    body = as_body(CHARGED)
    with pytest.raises(InvalidSignature):
        razorpay_events.verify_razorpay_event(
            razorpay_headers(body, "E1"), body.replace(b": ", b":"), RAZORPAY_SECRET, NOW
        )


@pytest.mark.parametrize("seconds", [301, 3600])
def test_stripes_old_signature_is_refused(seconds: int) -> None:
    body = as_body(SUCCEEDED)
    with pytest.raises(InvalidSignature):
        stripe_events.verify_stripe_event(
            stripe_headers(body, datetime.now(UTC) - timedelta(seconds=seconds)), body, STRIPE_SECRET
        )


def test_stripes_signature_of_four_minutes_ago_holds() -> None:
    body = as_body(SUCCEEDED)
    stripe_events.verify_stripe_event(
        stripe_headers(body, datetime.now(UTC) - timedelta(seconds=240)), body, STRIPE_SECRET
    )


@pytest.mark.parametrize(
    "headers", [{}, {"Stripe-Signature": ""}, {"Stripe-Signature": "t=1,v1=00"}, {"Stripe-Signature": "v1"}]
)
def test_stripe_without_a_signature_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidSignature):
        stripe_events.verify_stripe_event(headers, as_body(SUCCEEDED), STRIPE_SECRET)


def test_another_secret_is_refused() -> None:
    body = as_body(SUCCEEDED)
    with pytest.raises(InvalidSignature):
        stripe_events.verify_stripe_event(stripe_headers(body, datetime.now(UTC), "whsec_other"), body, STRIPE_SECRET)
    body = as_body(CHARGED)
    with pytest.raises(InvalidSignature):
        razorpay_events.verify_razorpay_event(razorpay_headers(body, "E1", "other"), body, RAZORPAY_SECRET, NOW)


@pytest.mark.parametrize("offset", [timedelta(seconds=301), -timedelta(hours=26)])
def test_razorpays_event_of_another_time_is_refused(offset: timedelta) -> None:
    body = as_body({**CHARGED, "created_at": int((NOW + offset).timestamp())})
    with pytest.raises(InvalidSignature):
        razorpay_events.verify_razorpay_event(razorpay_headers(body, "E1"), body, RAZORPAY_SECRET, NOW)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"id": None}, "id"), ({"type": ""}, "type"), ({"created": "soon"}, "created"), ({"id": "x" * 300}, "id")],
)
def test_what_is_missing_is_named(change: dict[str, Any], field: str) -> None:
    body = as_body({**SUCCEEDED, **change})
    with pytest.raises(InvalidInput) as caught:
        stripe_events.verify_stripe_event(stripe_headers(body, datetime.now(UTC)), body, STRIPE_SECRET)
    assert caught.value.field == field


def test_what_no_database_keeps_is_refused() -> None:
    body = as_body({**SUCCEEDED, "note": "\0"})
    with pytest.raises(InvalidInput, match="u0000"):
        stripe_events.verify_stripe_event(stripe_headers(body, datetime.now(UTC)), body, STRIPE_SECRET)


def test_razorpays_event_needs_its_id() -> None:
    body = as_body(CHARGED)
    headers = razorpay_headers(body, "E1")
    del headers["X-Razorpay-Event-Id"]
    with pytest.raises(InvalidInput) as caught:
        razorpay_events.verify_razorpay_event(headers, body, RAZORPAY_SECRET, NOW)
    assert caught.value.field == "X-Razorpay-Event-Id"


def test_what_events_say() -> None:
    told = stripe_events.parse_stripe_event("payment_intent.succeeded", SUCCEEDED)
    assert told is not None
    assert (told.kind, told.reference, told.idempotency_key, told.amount_minor, told.currency) == (
        "captured",
        "pi_1",
        "order-7",
        1999,
        "EUR",
    )
    error = {"code": "card_declined", "decline_code": "lost_card"}
    failed = intent_event("evt_2", "payment_intent.payment_failed", NOW, reference="pi_1", amount=1, error=error)
    told = stripe_events.parse_stripe_event("payment_intent.payment_failed", failed)
    assert told is not None
    assert told.decline is not None
    assert (told.kind, told.decline.kind, told.decline.code) == ("failed", "hard", "lost_card")
    told = razorpay_events.parse_razorpay_event("subscription.charged", CHARGED)
    assert told is not None
    assert (told.kind, told.reference, told.subscription_reference, told.amount_minor, told.currency, told.idempotency_key) == (
        "charged_subscription_find", "pay_1", "sub_1", 49900, "INR", None,
    )  # fmt: skip
    assert stripe_events.parse_stripe_event("customer.created", {}) is None
    assert razorpay_events.parse_razorpay_event("refund.created", {}) is None
