"""Stripe's webhooks: a signature over time and body, by Stripe's own library.

https://docs.stripe.com/webhooks/signature and https://docs.stripe.com/api/events/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backline.delivery_events.events import InvalidSignature, require_object
from backline.payments.declines import classify
from backline.payments.events import EventKind, ParsedEvent, PaymentEvent, parse_body, require_minor_units, require_text
from backline.payments.stripe_client import PAYMENT_KEY_METADATA

STRIPE = "stripe"
STRIPE_SIGNATURE_HEADER = "Stripe-Signature"
STRIPE_TOLERANCE_SECONDS = 300
"""How long ago a request may have been signed: Stripe signs each delivery anew."""

STRIPE_EVENT_KINDS: Mapping[str, EventKind] = {
    "payment_intent.succeeded": "captured",
    "payment_intent.payment_failed": "failed",
    "payment_intent.requires_action": "requires_action",
    "payment_intent.canceled": "cancelled",
}


def verify_stripe_event(headers: Mapping[str, str], body: bytes, secret: str) -> PaymentEvent:
    """The event of one request. NotSigned; InvalidInput for a body that is not Stripe's."""
    import stripe

    try:
        text = body.decode()
        stripe.WebhookSignature.verify_header(
            text, headers.get(STRIPE_SIGNATURE_HEADER, ""), secret, STRIPE_TOLERANCE_SECONDS
        )
    except (UnicodeDecodeError, stripe.SignatureVerificationError):
        raise InvalidSignature("its signature is missing, wrong or older than five minutes") from None
    told, occurred_at = parse_body(text, "created")
    return PaymentEvent(
        STRIPE, require_text(told.get("id"), "id"), require_text(told.get("type"), "type"), occurred_at, told
    )


def parse_stripe_event(event_type: str, body: Mapping[str, Any]) -> ParsedEvent | None:
    """What an event says; None for a type that we only keep. InvalidInput if it lacks something."""
    kind = STRIPE_EVENT_KINDS.get(event_type)
    if kind is None:
        return None
    intent = require_object(require_object(body.get("data"), "data").get("object"), "data.object")
    error = intent.get("last_payment_error") or {}
    key = (intent.get("metadata") or {}).get(PAYMENT_KEY_METADATA)
    return ParsedEvent(
        kind, require_text(intent.get("id"), "data.object.id"), key if isinstance(key, str) else None,
        require_minor_units(intent.get("amount"), "data.object.amount"),
        require_text(intent.get("currency"), "data.object.currency").upper(),
        classify((error.get("decline_code"), error.get("code"))) if kind == "failed" else None,
    )  # fmt: skip
