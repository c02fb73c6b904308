"""SendGrid's signed event webhook: ECDSA over its timestamp and the body.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features and
https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature as BadSignature
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key

from backline.delivery_events.events import (
    DeliveryEvent,
    InvalidSignature,
    check_signature_age,
    join_text,
    require_object,
)
from backline.errors import InvalidInput, Misconfigured

SOURCE = "sendgrid"
SIGNATURE_HEADER = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP_HEADER = "X-Twilio-Email-Event-Webhook-Timestamp"
_DROP_SUPPRESSION_REASONS = {"Bounced Address": "hard_bounce", "Spam Reporting Address": "complaint"}
"""Reasons of SendGrid's own suppression list that are ours too."""


def parse_request(headers: Mapping[str, str], body: bytes, public_key: str, now: datetime) -> list[DeliveryEvent]:
    """The events of one request. NotSigned; InvalidInput for a body that is not SendGrid's; Misconfigured for a wrong key."""
    _verify(headers, body, public_key, now)
    try:
        told = json.loads(body)
    except ValueError:
        raise InvalidInput("body", "must be JSON") from None
    if not isinstance(told, list):
        raise InvalidInput("body", "must be an array of events")
    found = (_parse_event(require_object(one, f"[{index}]"), f"[{index}]") for index, one in enumerate(told))
    return [event for event in found if event is not None]


def _verify(headers: Mapping[str, str], body: bytes, public_key: str, now: datetime) -> None:
    stamp = headers.get(TIMESTAMP_HEADER, "")
    try:
        key = load_der_public_key(base64.b64decode(public_key, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise Misconfigured("hooks.sendgrid_public_key: must be the verification key as SendGrid shows it (base64)")
    try:
        signature = base64.b64decode(headers.get(SIGNATURE_HEADER, ""), validate=True)
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, stamp.encode() + body)
    except (BadSignature, binascii.Error):
        raise InvalidSignature("its signature is missing or wrong") from None
    check_signature_age(_parse_time(stamp, TIMESTAMP_HEADER), now)


def _parse_event(told: dict[str, Any], field: str) -> DeliveryEvent | None:
    """One event; None for one that says nothing of delivery, such as an opened mail."""
    kind = told.get("event")
    if kind not in {"delivered", "deferred", "bounce", "dropped", "spamreport", "unsubscribe", "group_unsubscribe"}:
        return None
    recipient, source_id = told.get("email"), told.get("sg_event_id")
    if not isinstance(recipient, str) or not recipient or not isinstance(source_id, str) or not source_id:
        raise InvalidInput(field, "must have email and sg_event_id")
    common: dict[str, Any] = {
        "source_id": source_id, "channel": "email", "at": _parse_time(told.get("timestamp"), f"{field}.timestamp"),
        "recipient": recipient, "message_id": _text(told.get("smtp-id")), "provider_id": _text(told.get("sg_message_id")),
        "detail": join_text(told.get("status"), told.get("reason") or told.get("response")),
    }  # fmt: skip
    match kind:
        case "delivered" | "deferred":
            return DeliveryEvent(event=kind, **common)
        case "bounce":
            hard = told.get("type") != "blocked"  # blocked: refused for now, by the receiver's policy
            return DeliveryEvent(event="bounced", hard=hard, suppress="hard_bounce" if hard else None, **common)
        case "dropped":
            because: Any = _DROP_SUPPRESSION_REASONS.get(str(told.get("reason")))
            return DeliveryEvent(event="rejected", suppress=because, **common)
        case "spamreport":
            return DeliveryEvent(event="complained", suppress="complaint", **common)
        case _:
            return DeliveryEvent(event="unsubscribed", **common)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _parse_time(value: object, field: str) -> datetime:
    try:
        return datetime.fromtimestamp(int(value), UTC)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError, OSError):
        raise InvalidInput(field, "must be seconds since 1970") from None
