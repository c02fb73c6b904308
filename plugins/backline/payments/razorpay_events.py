"""Razorpay's webhooks: an HMAC of the body, by Razorpay's own library.

https://razorpay.com/docs/webhooks/validate-test/: the event's id stands in a header of its own, which is not signed, and a
delivery that is repeated for a day bears the first one's time. So the id tells what was told before, and what an event does
can be done only once whatever its id.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from backline.delivery_events.events import MAX_SIGNATURE_AGE, InvalidSignature, require_object
from backline.payments.declines import classify
from backline.payments.events import EventKind, ParsedEvent, PaymentEvent, parse_body, require_minor_units, require_text
from backline.payments.stripe_client import PAYMENT_KEY_METADATA

RAZORPAY = "razorpay"
RAZORPAY_SIGNATURE_HEADER = "X-Razorpay-Signature"
RAZORPAY_EVENT_ID_HEADER = "X-Razorpay-Event-Id"
RAZORPAY_CLOCK_TOLERANCE = timedelta(seconds=300)
"""How far Razorpay's clock may be ahead of ours."""

RAZORPAY_EVENT_KINDS: Mapping[str, EventKind] = {
    "payment.captured": "captured",
    "payment.failed": "failed",
    "subscription.charged": "charged_subscription_find",
}


def verify_razorpay_event(headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> PaymentEvent:
    """The event of one request. NotSigned; InvalidInput for a body that is not Razorpay's."""
    import razorpay
    from razorpay.errors import SignatureVerificationError

    try:
        text = body.decode()
        razorpay.Utility().verify_webhook_signature(text, headers.get(RAZORPAY_SIGNATURE_HEADER, ""), secret)
    except (UnicodeDecodeError, SignatureVerificationError):
        raise InvalidSignature("its signature is missing or wrong") from None
    told, occurred_at = parse_body(text, "created_at")
    if not -RAZORPAY_CLOCK_TOLERANCE <= now - occurred_at <= MAX_SIGNATURE_AGE:
        raise InvalidSignature("it happened too long ago, or by a clock that is ahead")
    event_id = require_text(headers.get(RAZORPAY_EVENT_ID_HEADER), RAZORPAY_EVENT_ID_HEADER)
    return PaymentEvent(RAZORPAY, event_id, require_text(told.get("event"), "event"), occurred_at, told)


def parse_razorpay_event(event_type: str, body: Mapping[str, Any]) -> ParsedEvent | None:
    """What an event says; None for a type that we only keep. InvalidInput if it lacks something."""
    kind = RAZORPAY_EVENT_KINDS.get(event_type)
    if kind is None:
        return None
    payment = _razorpay_entity(body, "payment")
    notes = payment.get("notes")
    subscription = None
    if kind == "charged_subscription_find":
        subscription = require_text(_razorpay_entity(body, "subscription").get("id"), "payload.subscription.entity.id")
    key = notes.get(PAYMENT_KEY_METADATA) if isinstance(notes, dict) else None  # an empty one is a list
    return ParsedEvent(
        kind, require_text(payment.get("id"), "payload.payment.entity.id"), key if isinstance(key, str) else None,
        require_minor_units(payment.get("amount"), "payload.payment.entity.amount"),
        require_text(payment.get("currency"), "payload.payment.entity.currency"),
        classify((payment.get("error_reason"), payment.get("error_code"))) if kind == "failed" else None,
        subscription,
    )  # fmt: skip


def _razorpay_entity(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    wrapped = require_object(require_object(body.get("payload"), "payload").get(name), f"payload.{name}")
    return require_object(wrapped.get("entity"), f"payload.{name}.entity")
