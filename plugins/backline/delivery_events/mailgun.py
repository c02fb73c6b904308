"""Mailgun's webhooks: an HMAC of time and token, both in the body.

https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks
"""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

from backline.delivery_events.events import (
    DeliveryEvent,
    InvalidSignature,
    check_signature_age,
    join_text,
    require_object,
)
from backline.errors import InvalidInput

SOURCE = "mailgun"
_HARD_BOUNCE_REASONS = frozenset({"bounce", "suppress-bounce"})


def parse_request(body: bytes, signing_key: str, now: datetime) -> list[DeliveryEvent]:
    """The event of one request. NotSigned; InvalidInput for a body that is not Mailgun's.

    The signature is of time and token alone, so the token is the event's id: with another body it counts as told before.
    """
    try:
        told = require_object(json.loads(body), "body")
    except ValueError:
        raise InvalidInput("body", "must be JSON") from None
    token = _verify(require_object(told.get("signature"), "signature"), signing_key, now)
    event = _parse_event(require_object(told.get("event-data"), "event-data"), token)
    return [] if event is None else [event]


def _verify(signature: dict[str, Any], signing_key: str, now: datetime) -> str:
    stamp, token, given = (signature.get(name) for name in ("timestamp", "token", "signature"))
    if not isinstance(token, str) or not isinstance(given, str) or not token or not given.isascii():
        raise InvalidInput("signature", "must have timestamp, token and signature")
    wanted = hmac.new(signing_key.encode(), f"{stamp}{token}".encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(wanted, given):
        raise InvalidSignature("its signature is wrong")
    check_signature_age(_parse_time(stamp, "signature.timestamp"), now)
    return token


def _parse_event(told: dict[str, Any], token: str) -> DeliveryEvent | None:
    """None for one that says nothing of delivery, such as an opened mail."""
    kind = told.get("event")
    if kind not in {"delivered", "failed", "rejected", "complained", "unsubscribed"}:
        return None
    recipient = told.get("recipient")
    if not isinstance(recipient, str) or not recipient:
        raise InvalidInput("event-data.recipient", "is missing")
    status, message = told.get("delivery-status") or {}, told.get("message") or {}
    headers = require_object(message, "event-data.message").get("headers") or {}
    status = require_object(status, "event-data.delivery-status")
    header = require_object(headers, "event-data.message.headers").get("message-id")
    common: dict[str, Any] = {
        "source_id": token, "channel": "email", "at": _parse_time(told.get("timestamp"), "event-data.timestamp"),
        "recipient": recipient, "message_id": header if isinstance(header, str) else None,
        "detail": join_text(status.get("code"), status.get("message") or status.get("description") or told.get("reason")),
    }  # fmt: skip
    match kind:
        case "failed" if told.get("severity") == "temporary":
            return DeliveryEvent(event="deferred", **common)
        case "failed" if told.get("reason") == "suppress-complaint":
            return DeliveryEvent(event="rejected", suppress="complaint", **common)
        case "failed":
            gone = told.get("reason") in _HARD_BOUNCE_REASONS
            return DeliveryEvent(event="bounced", hard=gone, suppress="hard_bounce" if gone else None, **common)
        case "complained":
            return DeliveryEvent(event="complained", suppress="complaint", **common)
        case "unsubscribed":
            return DeliveryEvent(event="unsubscribed", **common)
        case "delivered":
            return DeliveryEvent(event="delivered", **common)
        case _:
            return DeliveryEvent(event="rejected", **common)


def _parse_time(value: object, field: str) -> datetime:
    try:
        return datetime.fromtimestamp(float(value), UTC)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):
        raise InvalidInput(field, "must be seconds since 1970") from None
