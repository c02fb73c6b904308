"""SendGrid's event webhook, signed with ECDSA over its timestamp and the body.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features and
https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature as BadSignature
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key

from backline.delivery_events import events
from backline.delivery_events.events import DeliveryEvent, InvalidSignature
from backline.errors import InvalidInput, Misconfigured

log = logging.getLogger(__name__)

SOURCE = "sendgrid"
SIGNATURE_HEADER = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP_HEADER = "X-Twilio-Email-Event-Webhook-Timestamp"
_DROP_SUPPRESSION_REASONS = {"Bounced Address": "hard_bounce", "Spam Reporting Address": "complaint"}
"""Reasons of SendGrid's own suppression list that are reasons of ours."""


def parse_request(headers: Mapping[str, str], body: bytes, public_key: str, now: datetime) -> list[DeliveryEvent]:
    """The events of one request. InvalidSignature; InvalidInput for a body that is not SendGrid's; Misconfigured."""
    _verify(headers, body, public_key, now)
    items = events.parse_json(body, "body")
    if not isinstance(items, list):
        raise InvalidInput("body", "must be an array of events")
    found = []
    for index, one in enumerate(items):
        try:
            event = _parse_event(events.require_object(one, f"[{index}]"), f"[{index}]")
        except InvalidInput as exc:  # SendGrid would send all of them again
            log.warning("sendgrid: an event was left out: %r", str(exc))
            continue
        found += [event] if event is not None else []
    return found


def _verify(headers: Mapping[str, str], body: bytes, public_key: str, now: datetime) -> None:
    stamp, signed = (events.signature_header(headers, name) for name in (TIMESTAMP_HEADER, SIGNATURE_HEADER))
    try:
        key = load_der_public_key(base64.b64decode(public_key, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise Misconfigured("hooks.sendgrid_public_key: must be the verification key as SendGrid shows it (base64)")
    try:
        signature = base64.b64decode(signed, validate=True)
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, stamp.encode() + body)
    except (BadSignature, binascii.Error):
        raise InvalidSignature("its signature is missing or wrong") from None
    events.check_signature_age(events.parse_epoch(stamp, TIMESTAMP_HEADER), now)


def _parse_event(data: dict[str, Any], field: str) -> DeliveryEvent | None:
    kind: Any = str(data.get("event"))
    if kind not in {"delivered", "deferred", "bounce", "dropped", "spamreport", "unsubscribe", "group_unsubscribe"}:
        return None
    recipient, source_id = data.get("email"), data.get("sg_event_id")
    if not isinstance(recipient, str) or not recipient or not isinstance(source_id, str) or not source_id:
        raise InvalidInput(field, "must have email and sg_event_id")
    common: dict[str, Any] = {
        "source_id": source_id, "channel": "email", "recipient": recipient,
        "at": events.parse_epoch(data.get("timestamp"), f"{field}.timestamp"),
        "message_id": _text(data.get("smtp-id")), "provider_id": _text(data.get("sg_message_id")),
        "detail": events.join_text(data.get("status"), data.get("reason") or data.get("response")),
    }  # fmt: skip
    match kind:
        case "delivered" | "deferred":
            return DeliveryEvent(event=kind, **common)
        case "bounce":
            # A blocked one was refused temporarily, by the receiver's policy.
            return events.bounce(hard=data.get("type") != "blocked", **common)
        case "dropped":
            reason: Any = _DROP_SUPPRESSION_REASONS.get(str(data.get("reason")))
            return DeliveryEvent(event="rejected", suppress=reason, **common)
        case "spamreport":
            return DeliveryEvent(event="complained", suppress="complaint", **common)
        case _:
            return DeliveryEvent(event="unsubscribed", **common)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
