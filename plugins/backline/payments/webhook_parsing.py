"""Verifies and parses the payment events that providers post to the web hooks, and stores each event once.

Stripe signs time and body (https://docs.stripe.com/webhooks/signature, https://docs.stripe.com/api/events/object).
Razorpay signs the body only (https://razorpay.com/docs/webhooks/validate-test/): the event's id is in a header that is not signed,
and a delivery that is repeated for a day has the first one's time. The id detects repeated deliveries; an event that is
repeated under another id is processed again, which must change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic_core import to_json

from backline.db.connect import Session, fetch
from backline.db.statements import statement
from backline.delivery_events.events import (
    MAX_SIGNATURE_AGE,
    InvalidSignature,
    parse_epoch,
    parse_json,
    require_object,
    signature_header,
)
from backline.errors import InvalidInput
from backline.money import Money
from backline.payments.declines import Decline, classify
from backline.payments.provider import (
    PAYMENT_KEY_METADATA,
    RAZORPAY_REFUND_STATES,
    REFUND_KEY_METADATA,
    STRIPE_REFUND_STATES,
    ProviderRefund,
)
from backline.payments.provider_units import RAZORPAY_UNITS, STRIPE_UNITS, ProviderUnits

STRIPE = "stripe"
STRIPE_SIGNATURE_HEADER = "Stripe-Signature"
STRIPE_TOLERANCE_SECONDS = 300
"""Maximum age of a signature: Stripe signs each delivery anew."""
RAZORPAY = "razorpay"
RAZORPAY_SIGNATURE_HEADER = "X-Razorpay-Signature"
RAZORPAY_EVENT_ID_HEADER = "X-Razorpay-Event-Id"
RAZORPAY_CLOCK_TOLERANCE = timedelta(seconds=300)
"""How far Razorpay's clock may be ahead of ours."""
MAX_ID_LENGTH = 200
MAX_AMOUNT = 10**15
"""Far above every amount that providers accept, and well within a bigint."""

EventKind = Literal["captured", "failed", "requires_action", "cancelled", "subscription_charged", "refund", "dispute"]
DISPUTE_EVENTS = ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")
STRIPE_EVENT_KINDS: Mapping[str, EventKind] = {
    "payment_intent.succeeded": "captured",
    "payment_intent.payment_failed": "failed",
    "payment_intent.requires_action": "requires_action",
    "payment_intent.canceled": "cancelled",
    **dict.fromkeys(("refund.created", "refund.updated", "refund.failed", "charge.refund.updated"), "refund"),
    **dict.fromkeys((f"charge.dispute.{name}" for name in DISPUTE_EVENTS), "dispute"),
}
"""`charge.refunded` names only the sum of a charge's refunds; each of them has an event of its own."""
RAZORPAY_DISPUTE_EVENTS = ("created", "under_review", "action_required", "won", "lost", "closed")
RAZORPAY_EVENT_KINDS: Mapping[str, EventKind] = {
    "payment.captured": "captured",
    "payment.failed": "failed",
    "subscription.charged": "subscription_charged",
    **dict.fromkeys(("refund.created", "refund.processed", "refund.failed"), "refund"),
    **dict.fromkeys((f"payment.dispute.{name}" for name in RAZORPAY_DISPUTE_EVENTS), "dispute"),
}
DisputeState = Literal["open", "won", "lost"]
DISPUTE_STATES: Mapping[str, DisputeState] = {
    **dict.fromkeys(("won", "warning_closed", "prevented", "closed"), "won"), "lost": "lost",
}  # fmt: skip
"""Final states by the providers' names; a dispute in any other state is open. An inquiry that is closed took no money."""


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """A verified event, as it is stored."""

    provider: str
    event_id: str
    """The provider's id, the same in repeated deliveries."""
    type: str
    occurred_at: datetime
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProviderDispute:
    """A payment that its payer disputes at their bank. The provider takes the money back, and returns it if we win."""

    reference: str
    """The provider's id."""
    amount: Money
    state: DisputeState
    reason: str


@dataclass(frozen=True, slots=True)
class ParsedEvent:
    """What an event means, in terms that are common to all providers."""

    kind: EventKind
    reference: str
    """The provider's id of the payment."""
    idempotency_key: str | None
    """Our key of the payment; None if the payment was not created by Backline, or the event does not name it."""
    amount: Money
    """What was captured, refunded or disputed, or what was to be paid."""
    decline: Decline | None = None
    subscription_reference: str | None = None
    """The provider's id of the subscription that was charged."""
    refund: ProviderRefund | None = None
    dispute: ProviderDispute | None = None


def insert_event(connection: Session, event: PaymentEvent) -> bool:
    """Store an event in the caller's transaction; returns whether it is new."""
    values = {
        "provider": event.provider, "event_id": event.event_id, "type": event.type, "occurred_at": event.occurred_at,
        "body": to_json(event.body).decode(),
    }  # fmt: skip
    return bool(fetch(connection, statement("payments", "event_insert"), int, values))


def verify_stripe_event(headers: Mapping[str, str], body: bytes, secret: str) -> PaymentEvent:
    """The event of one request. InvalidSignature; InvalidInput if the body is not a Stripe event."""
    import stripe

    try:
        text = body.decode()
        stripe.WebhookSignature.verify_header(
            text, signature_header(headers, STRIPE_SIGNATURE_HEADER), secret, STRIPE_TOLERANCE_SECONDS
        )
    except (UnicodeDecodeError, stripe.SignatureVerificationError):
        raise InvalidSignature("the signature is missing, wrong or older than five minutes") from None
    content, occurred_at = _parse_body(text, "created")
    event_id, event_type = _require_text(content.get("id"), "id"), _require_text(content.get("type"), "type")
    return PaymentEvent(STRIPE, event_id, event_type, occurred_at, content)


def verify_razorpay_event(headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> PaymentEvent:
    """The event of one request. InvalidSignature; InvalidInput if the body is not a Razorpay event."""
    import razorpay
    from razorpay.errors import SignatureVerificationError

    try:
        text = body.decode()
        razorpay.Utility().verify_webhook_signature(text, signature_header(headers, RAZORPAY_SIGNATURE_HEADER), secret)
    except (UnicodeDecodeError, SignatureVerificationError):
        raise InvalidSignature("the signature is missing or wrong") from None
    content, occurred_at = _parse_body(text, "created_at")
    if not -RAZORPAY_CLOCK_TOLERANCE <= now - occurred_at <= MAX_SIGNATURE_AGE:
        raise InvalidSignature("the event is too old, or the provider's clock is ahead")
    event_id = _require_text(headers.get(RAZORPAY_EVENT_ID_HEADER), RAZORPAY_EVENT_ID_HEADER)
    return PaymentEvent(RAZORPAY, event_id, _require_text(content.get("event"), "event"), occurred_at, content)


def parse_stripe_event(event_type: str, body: Mapping[str, object]) -> ParsedEvent | None:
    """Parse an event; None for a type that is stored but not processed. InvalidInput if a field is missing."""
    kind = STRIPE_EVENT_KINDS.get(event_type)
    if kind is None:
        return None
    found = require_object(require_object(body.get("data"), "data").get("object"), "data.object")
    reference = _require_text(found.get("id"), "data.object.id")
    currency = _require_text(found.get("currency"), "data.object.currency")
    asked = _money(STRIPE_UNITS, found.get("amount"), currency, "data.object.amount")
    metadata = found.get("metadata") or {}
    if kind in ("refund", "dispute"):
        payment = found.get("payment_intent")
        if payment is None:  # of a charge without an intent, which is not ours
            return None
        payment = _require_text(payment, "data.object.payment_intent")
        if kind == "dispute":
            return ParsedEvent(kind, payment, None, asked, dispute=_dispute(found, reference, asked, "reason"))
        refund_state = STRIPE_REFUND_STATES.get(str(found.get("status")), "pending")
        return ParsedEvent(
            kind, payment, None, asked,
            refund=ProviderRefund(reference, asked, refund_state, _optional_text(metadata, REFUND_KEY_METADATA)),
        )  # fmt: skip
    error = found.get("last_payment_error") or {}
    amount = asked
    if kind == "captured":  # less than the amount after a partial capture
        amount = _money(STRIPE_UNITS, found.get("amount_received"), currency, "data.object.amount_received")
    return ParsedEvent(
        kind, reference, _optional_text(metadata, PAYMENT_KEY_METADATA), amount,
        classify((error.get("decline_code"), error.get("code"))) if kind == "failed" else None,
    )  # fmt: skip


def parse_razorpay_event(event_type: str, body: Mapping[str, object]) -> ParsedEvent | None:
    """Parse an event; None for a type that is stored but not processed. InvalidInput if a field is missing."""
    kind = RAZORPAY_EVENT_KINDS.get(event_type)
    if kind is None:
        return None
    if kind in ("refund", "dispute"):
        found = _razorpay_entity(body, kind)
        field = f"payload.{kind}.entity"
        reference = _require_text(found.get("id"), f"{field}.id")
        payment = _require_text(found.get("payment_id"), f"{field}.payment_id")
        currency = _require_text(found.get("currency"), f"{field}.currency")
        amount = _money(RAZORPAY_UNITS, found.get("amount"), currency, f"{field}.amount")
        if kind == "dispute":
            return ParsedEvent(kind, payment, None, amount, dispute=_dispute(found, reference, amount, "reason_code"))
        state = RAZORPAY_REFUND_STATES.get(str(found.get("status")), "pending")
        key = _optional_text(found.get("notes"), REFUND_KEY_METADATA)
        return ParsedEvent(kind, payment, None, amount, refund=ProviderRefund(reference, amount, state, key))
    payment_entity = _razorpay_entity(body, "payment")
    subscription = None
    if kind == "subscription_charged":
        subscription = _require_text(_razorpay_entity(body, "subscription").get("id"), "payload.subscription.entity.id")
    currency = _require_text(payment_entity.get("currency"), "payload.payment.entity.currency")
    codes = payment_entity.get("error_reason"), payment_entity.get("error_code")
    return ParsedEvent(
        kind, _require_text(payment_entity.get("id"), "payload.payment.entity.id"),
        _optional_text(payment_entity.get("notes"), PAYMENT_KEY_METADATA),
        _money(RAZORPAY_UNITS, payment_entity.get("amount"), currency, "payload.payment.entity.amount"),
        classify(codes) if kind == "failed" else None, subscription,
    )  # fmt: skip


PARSERS: Mapping[str, Callable[[str, Mapping[str, object]], ParsedEvent | None]] = {
    STRIPE: parse_stripe_event,
    RAZORPAY: parse_razorpay_event,
}


def _razorpay_entity(body: Mapping[str, object], name: str) -> dict[str, Any]:
    wrapped = require_object(require_object(body.get("payload"), "payload").get(name), f"payload.{name}")
    return require_object(wrapped.get("entity"), f"payload.{name}.entity")


def _parse_body(text: str, time_field: str) -> tuple[dict[str, Any], datetime]:
    """A signed body and its time, from a field in seconds since 1970. A NUL is refused: PostgreSQL's jsonb cannot store it."""
    if "\\u0000" in text:
        raise InvalidInput("body", "must not contain \\u0000")
    content = require_object(parse_json(text, "body"), "body")
    try:
        to_json(content)
    except (ValueError, RecursionError):
        raise InvalidInput("body", "must be Unicode text, nested at most some hundred levels deep") from None
    return content, parse_epoch(content.get(time_field), time_field)


def _require_text(value: object, field: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH or "\0" in value:
        raise InvalidInput(field, f"must be a text of 1 to {MAX_ID_LENGTH} characters")
    return value


def _money(units: ProviderUnits, amount: object, currency: str, field: str) -> Money:
    if isinstance(amount, bool) or not isinstance(amount, int) or not 0 <= amount <= MAX_AMOUNT:
        raise InvalidInput(field, "must be a whole number of the currency's smallest units")
    try:
        return units.to_money(amount, currency)
    except InvalidInput as exc:
        raise InvalidInput(field, exc.problem) from None


def _dispute(found: Mapping[str, object], reference: str, amount: Money, reason: str) -> ProviderDispute:
    state = DISPUTE_STATES.get(str(found.get("status")), "open")
    return ProviderDispute(reference, amount, state, _optional_text(found, reason) or "unknown")


def _optional_text(found: object, name: str) -> str | None:
    """A text of an object, such as our metadata; empty notes of Razorpay are a list."""
    text = found.get(name) if isinstance(found, dict) else None
    return text[:MAX_ID_LENGTH] if isinstance(text, str) and text else None
