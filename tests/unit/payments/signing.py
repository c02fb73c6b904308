"""Signs events as the providers' documentation describes, without their libraries."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import datetime
from typing import Any

STRIPE_SECRET = "whsec_of_a_test"
RAZORPAY_SECRET = "razorpay-of-a-test"
KEY, REFUND_KEY = "backline_payment", "backline_refund"


def stripe_headers(body: bytes, at: datetime, secret: str = STRIPE_SECRET) -> dict[str, str]:
    stamp = int(at.timestamp())
    signature = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={stamp},v1={signature}"}


def razorpay_headers(body: bytes, event_id: str, secret: str = RAZORPAY_SECRET) -> dict[str, str]:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Razorpay-Signature": signature, "X-Razorpay-Event-Id": event_id}


def intent_event(
    event_id: str, event_type: str, at: datetime, *, reference: str, amount: int, key: str | None = None,
    currency: str = "eur", error: dict[str, str] | None = None, received: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """An event about a PaymentIntent, as Stripe posts it; `received` is less than `amount` after a partial capture."""
    captured = amount if received is None else received
    intent = {
        "id": reference, "object": "payment_intent", "amount": amount, "currency": currency,
        "amount_received": captured if event_type == "payment_intent.succeeded" else 0,
        "metadata": {KEY: key} if key else {}, "last_payment_error": error,
    }  # fmt: skip
    return stripe_event(event_id, event_type, at, intent)


def refund_event(
    event_id: str, at: datetime, *, intent: str, refund: str, amount: int, status: str = "succeeded",
    currency: str = "eur", event_type: str = "refund.created", key: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """An event about a refund, as Stripe posts it; `key` is ours."""
    return stripe_event(event_id, event_type, at, {
        "id": refund, "object": "refund", "amount": amount, "currency": currency, "payment_intent": intent,
        "charge": f"ch_{intent[3:]}", "status": status, "metadata": {REFUND_KEY: key} if key else {},
    })  # fmt: skip


def dispute_event(
    event_id: str, event_type: str, at: datetime, *, intent: str, dispute: str, amount: int, status: str
) -> dict[str, Any]:
    """An event about a dispute, as Stripe posts it."""
    return stripe_event(event_id, event_type, at, {
        "id": dispute, "object": "dispute", "amount": amount, "currency": "eur", "payment_intent": intent,
        "charge": f"ch_{intent[3:]}", "status": status, "reason": "fraudulent",
    })  # fmt: skip


def stripe_event(event_id: str, event_type: str, at: datetime, about: dict[str, Any]) -> dict[str, Any]:
    """An event as Stripe posts it."""
    return {
        "id": event_id, "object": "event", "type": event_type, "created": int(at.timestamp()), "livemode": False,
        "data": {"object": about},
    }  # fmt: skip


def razorpay_event(
    event_type: str, at: datetime, *, payment: str, amount: int, subscription: str | None = None, key: str | None = None
) -> dict[str, Any]:
    """An event about a payment, as Razorpay posts it."""
    entity = {
        "id": payment, "entity": "payment", "amount": amount, "currency": "INR", "status": event_type.rpartition(".")[2],
        "notes": {KEY: key} if key else [], "error_code": None, "error_reason": None,
    }  # fmt: skip
    payload: dict[str, Any] = {"payment": {"entity": entity}}
    if subscription is not None:
        payload["subscription"] = {"entity": {"id": subscription, "entity": "subscription", "status": "active"}}
    return {
        "entity": "event", "event": event_type, "contains": list(payload), "payload": payload,
        "created_at": int(at.timestamp()),
    }  # fmt: skip


def as_body(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()
