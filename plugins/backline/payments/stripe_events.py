"""Stripe's webhooks: a signature over time and body, by Stripe's own library.

https://docs.stripe.com/webhooks/signature and https://docs.stripe.com/api/events/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backline.delivery_events.events import NotSigned, as_object
from backline.payments.declines import classify
from backline.payments.events import Kind, PaymentEvent, Told, number, opened, required
from backline.payments.stripe_client import KEY

SOURCE = "stripe"
SIGNATURE = "Stripe-Signature"
TOLERANCE_SECONDS = 300
"""How long ago a request may have been signed: Stripe signs each delivery anew."""

KINDS: Mapping[str, Kind] = {
    "payment_intent.succeeded": "captured",
    "payment_intent.payment_failed": "failed",
    "payment_intent.requires_action": "requires_action",
    "payment_intent.canceled": "cancelled",
}


def read(headers: Mapping[str, str], body: bytes, secret: str) -> PaymentEvent:
    """The event of one request. NotSigned; InvalidInput for a body that is not Stripe's."""
    import stripe

    try:
        text = body.decode()
        stripe.WebhookSignature.verify_header(text, headers.get(SIGNATURE, ""), secret, TOLERANCE_SECONDS)
    except (UnicodeDecodeError, stripe.SignatureVerificationError):
        raise NotSigned("its signature is missing, wrong or older than five minutes") from None
    told, occurred_at = opened(text, "created")
    return PaymentEvent(SOURCE, required(told.get("id"), "id"), required(told.get("type"), "type"), occurred_at, told)


def told(event_type: str, body: Mapping[str, Any]) -> Told | None:
    """What an event says; None for a type that we only keep. InvalidInput if it lacks something."""
    kind = KINDS.get(event_type)
    if kind is None:
        return None
    intent = as_object(as_object(body.get("data"), "data").get("object"), "data.object")
    error = intent.get("last_payment_error") or {}
    key = (intent.get("metadata") or {}).get(KEY)
    return Told(
        kind, required(intent.get("id"), "data.object.id"), key if isinstance(key, str) else None,
        number(intent.get("amount"), "data.object.amount"),
        required(intent.get("currency"), "data.object.currency").upper(),
        classify((error.get("decline_code"), error.get("code"))) if kind == "failed" else None,
    )  # fmt: skip
