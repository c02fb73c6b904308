"""Razorpay's webhooks: an HMAC of the body, by Razorpay's own library.

https://razorpay.com/docs/webhooks/validate-test/: the event's id stands in a header of its own, which is not signed, and a
delivery that is repeated for a day bears the first one's time. So the id tells what was told before, and what an event does
can be done only once whatever its id.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from backline.delivery_events.events import OLDEST, NotSigned, as_object
from backline.payments.declines import classify
from backline.payments.events import Kind, PaymentEvent, Told, number, opened, required
from backline.payments.stripe_client import KEY

SOURCE = "razorpay"
SIGNATURE = "X-Razorpay-Signature"
EVENT_ID = "X-Razorpay-Event-Id"
TOLERANCE = timedelta(seconds=300)
"""How far Razorpay's clock may be ahead of ours."""

KINDS: Mapping[str, Kind] = {
    "payment.captured": "captured",
    "payment.failed": "failed",
    "subscription.charged": "subscription_charged",
}


def read(headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> PaymentEvent:
    """The event of one request. NotSigned; InvalidInput for a body that is not Razorpay's."""
    import razorpay
    from razorpay.errors import SignatureVerificationError

    try:
        text = body.decode()
        razorpay.Utility().verify_webhook_signature(text, headers.get(SIGNATURE, ""), secret)
    except (UnicodeDecodeError, SignatureVerificationError):
        raise NotSigned("its signature is missing or wrong") from None
    told, occurred_at = opened(text, "created_at")
    if not -TOLERANCE <= now - occurred_at <= OLDEST:
        raise NotSigned("it happened too long ago, or by a clock that is ahead")
    event_id = required(headers.get(EVENT_ID), EVENT_ID)
    return PaymentEvent(SOURCE, event_id, required(told.get("event"), "event"), occurred_at, told)


def told(event_type: str, body: Mapping[str, Any]) -> Told | None:
    """What an event says; None for a type that we only keep. InvalidInput if it lacks something."""
    kind = KINDS.get(event_type)
    if kind is None:
        return None
    payment = _entity(body, "payment")
    notes = payment.get("notes")
    subscription = None
    if kind == "subscription_charged":
        subscription = required(_entity(body, "subscription").get("id"), "payload.subscription.entity.id")
    key = notes.get(KEY) if isinstance(notes, dict) else None  # an empty one is a list
    return Told(
        kind, required(payment.get("id"), "payload.payment.entity.id"), key if isinstance(key, str) else None,
        number(payment.get("amount"), "payload.payment.entity.amount"),
        required(payment.get("currency"), "payload.payment.entity.currency"),
        classify((payment.get("error_reason"), payment.get("error_code"))) if kind == "failed" else None,
        subscription,
    )  # fmt: skip


def _entity(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    wrapped = as_object(as_object(body.get("payload"), "payload").get(name), f"payload.{name}")
    return as_object(wrapped.get("entity"), f"payload.{name}.entity")
