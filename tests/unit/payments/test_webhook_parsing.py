from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backline.delivery_events.events import InvalidSignature
from backline.errors import InvalidInput
from backline.payments.webhook_parsing import (
    parse_razorpay_event,
    parse_stripe_event,
    verify_razorpay_event,
    verify_stripe_event,
)
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


def test_a_stripe_event_is_verified() -> None:
    body = as_body(SUCCEEDED)
    event = verify_stripe_event(stripe_headers(body, datetime.now(UTC)), body, STRIPE_SECRET)
    assert (event.provider, event.event_id, event.type, event.occurred_at) == (
        "stripe",
        "evt_1",
        "payment_intent.succeeded",
        NOW,
    )
    assert event.body == SUCCEEDED


def test_a_razorpay_event_is_verified() -> None:
    body = as_body(CHARGED)
    event = verify_razorpay_event(razorpay_headers(body, "E1"), body, RAZORPAY_SECRET, NOW)
    assert (event.provider, event.event_id, event.type, event.occurred_at) == (
        "razorpay",
        "E1",
        "subscription.charged",
        NOW,
    )
    assert event.body == CHARGED


def test_the_signature_is_over_the_raw_bytes() -> None:
    for body, headers in ((as_body(SUCCEEDED), stripe_headers),):
        with pytest.raises(InvalidSignature):
            verify_stripe_event(headers(body, datetime.now(UTC)), body.replace(b": ", b":"), STRIPE_SECRET)
    body = as_body(CHARGED)
    with pytest.raises(InvalidSignature):
        verify_razorpay_event(razorpay_headers(body, "E1"), body.replace(b": ", b":"), RAZORPAY_SECRET, NOW)


@pytest.mark.parametrize("seconds", [301, 3600])
def test_an_old_stripe_signature_is_refused(seconds: int) -> None:
    body = as_body(SUCCEEDED)
    with pytest.raises(InvalidSignature):
        verify_stripe_event(stripe_headers(body, datetime.now(UTC) - timedelta(seconds=seconds)), body, STRIPE_SECRET)


def test_a_stripe_signature_of_four_minutes_ago_is_valid() -> None:
    body = as_body(SUCCEEDED)
    verify_stripe_event(stripe_headers(body, datetime.now(UTC) - timedelta(seconds=240)), body, STRIPE_SECRET)


@pytest.mark.parametrize(
    "headers", [{}, {"Stripe-Signature": ""}, {"Stripe-Signature": "t=1,v1=00"}, {"Stripe-Signature": "v1"}]
)
def test_a_stripe_request_without_a_signature_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidSignature):
        verify_stripe_event(headers, as_body(SUCCEEDED), STRIPE_SECRET)


def test_another_secret_is_refused() -> None:
    body = as_body(SUCCEEDED)
    with pytest.raises(InvalidSignature):
        verify_stripe_event(stripe_headers(body, datetime.now(UTC), "whsec_other"), body, STRIPE_SECRET)
    body = as_body(CHARGED)
    with pytest.raises(InvalidSignature):
        verify_razorpay_event(razorpay_headers(body, "E1", "other"), body, RAZORPAY_SECRET, NOW)


@pytest.mark.parametrize("offset", [timedelta(seconds=301), -timedelta(hours=26)])
def test_a_razorpay_event_of_another_time_is_refused(offset: timedelta) -> None:
    body = as_body({**CHARGED, "created_at": int((NOW + offset).timestamp())})
    with pytest.raises(InvalidSignature):
        verify_razorpay_event(razorpay_headers(body, "E1"), body, RAZORPAY_SECRET, NOW)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"id": None}, "id"), ({"type": ""}, "type"), ({"created": "soon"}, "created"), ({"id": "x" * 300}, "id")],
)
def test_a_missing_field_is_named(change: dict[str, Any], field: str) -> None:
    body = as_body({**SUCCEEDED, **change})
    with pytest.raises(InvalidInput) as caught:
        verify_stripe_event(stripe_headers(body, datetime.now(UTC)), body, STRIPE_SECRET)
    assert caught.value.field == field


def test_a_nul_character_is_refused() -> None:
    body = as_body({**SUCCEEDED, "note": "\0"})
    with pytest.raises(InvalidInput, match="u0000"):
        verify_stripe_event(stripe_headers(body, datetime.now(UTC)), body, STRIPE_SECRET)


def test_a_razorpay_event_needs_an_id() -> None:
    body = as_body(CHARGED)
    headers = razorpay_headers(body, "E1")
    del headers["X-Razorpay-Event-Id"]
    with pytest.raises(InvalidInput) as caught:
        verify_razorpay_event(headers, body, RAZORPAY_SECRET, NOW)
    assert caught.value.field == "X-Razorpay-Event-Id"


def test_events_are_parsed() -> None:
    parsed = parse_stripe_event("payment_intent.succeeded", SUCCEEDED)
    assert parsed is not None
    assert (parsed.kind, parsed.reference, parsed.idempotency_key, parsed.amount.minor, parsed.amount.currency) == (
        "captured",
        "pi_1",
        "order-7",
        1999,
        "EUR",
    )
    error = {"code": "card_declined", "decline_code": "lost_card"}
    failed = intent_event("evt_2", "payment_intent.payment_failed", NOW, reference="pi_1", amount=1, error=error)
    parsed = parse_stripe_event("payment_intent.payment_failed", failed)
    assert parsed is not None
    assert parsed.decline is not None
    assert (parsed.kind, parsed.decline.kind, parsed.decline.code) == ("failed", "hard", "lost_card")
    parsed = parse_razorpay_event("subscription.charged", CHARGED)
    assert parsed is not None
    assert (parsed.kind, parsed.reference, parsed.subscription_reference, parsed.amount.minor, parsed.amount.currency, parsed.idempotency_key) == (
        "subscription_charged", "pay_1", "sub_1", 49900, "INR", None,
    )  # fmt: skip
    assert parse_stripe_event("customer.created", {}) is None
    assert parse_razorpay_event("order.paid", {}) is None
