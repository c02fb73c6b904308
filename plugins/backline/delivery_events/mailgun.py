"""Mailgun's webhooks (https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks)."""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from typing import Any

from backline.delivery_events import events
from backline.delivery_events.events import DeliveryEvent, InvalidSignature
from backline.errors import InvalidInput

SOURCE = "mailgun"
_HARD_BOUNCE_REASONS = frozenset({"bounce", "suppress-bounce"})


def parse_request(body: bytes, signing_key: str, now: datetime) -> list[DeliveryEvent]:
    """The event of one request. InvalidSignature; InvalidInput for a body that is not Mailgun's.

    Only time and token are signed, so the token is the event's id: the same token with another body is a duplicate.
    """
    request = events.require_object(events.parse_json(body, "body"), "body")
    token = _verify(events.require_object(request.get("signature"), "signature"), signing_key, now)
    event = _parse_event(events.require_object(request.get("event-data"), "event-data"), token)
    return [] if event is None else [event]


def _verify(signature: dict[str, Any], signing_key: str, now: datetime) -> str:
    stamp, token, given = (signature.get(name) for name in ("timestamp", "token", "signature"))
    if not isinstance(token, str) or not isinstance(given, str) or not token or not given.isascii():
        raise InvalidInput("signature", "must have timestamp, token and signature")
    expected = hmac.new(signing_key.encode(), f"{stamp}{token}".encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, given):
        raise InvalidSignature("its signature is wrong")
    events.check_signature_age(events.parse_epoch(stamp, "signature.timestamp"), now)
    return token


def _parse_event(data: dict[str, Any], token: str) -> DeliveryEvent | None:
    kind: Any = str(data.get("event"))
    if kind not in {"delivered", "failed", "rejected", "complained", "unsubscribed"}:
        return None
    recipient = data.get("recipient")
    if not isinstance(recipient, str) or not recipient:
        raise InvalidInput("event-data.recipient", "is missing")
    status, message = data.get("delivery-status") or {}, data.get("message") or {}
    headers = events.require_object(message, "event-data.message").get("headers") or {}
    status = events.require_object(status, "event-data.delivery-status")
    header = events.require_object(headers, "event-data.message.headers").get("message-id")
    detail = status.get("message") or status.get("description") or data.get("reason")
    common: dict[str, Any] = {
        "source_id": token, "channel": "email", "at": events.parse_epoch(data.get("timestamp"), "event-data.timestamp"),
        "recipient": recipient, "message_id": header if isinstance(header, str) else None,
        "detail": events.join_text(status.get("code"), detail),
    }  # fmt: skip
    match kind:
        case "failed" if data.get("severity") == "temporary":
            return DeliveryEvent(event="deferred", **common)
        case "failed" if data.get("reason") == "suppress-complaint":
            return DeliveryEvent(event="rejected", suppress="complaint", **common)
        case "failed":
            return events.bounce(hard=str(data.get("reason")) in _HARD_BOUNCE_REASONS, **common)
        case "complained":
            return DeliveryEvent(event="complained", suppress="complaint", **common)
        case _:  # delivered, rejected or unsubscribed
            return DeliveryEvent(event=kind, **common)
