"""Twilio's status callbacks for SMS, signed by an HMAC of the URL and the form.

https://www.twilio.com/docs/usage/security#validating-requests and
https://www.twilio.com/docs/messaging/guides/outbound-message-status-in-status-callbacks
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from backline.delivery_events.events import DeliveryEvent, InvalidSignature, bounce, join_text
from backline.errors import InvalidInput

SOURCE = "twilio"
SIGNATURE_HEADER = "X-Twilio-Signature"
MAX_FIELDS = 200
_PORTS = {"https": 443, "http": 80}
_HARD_BOUNCE_CODES = frozenset({"30005", "30006", "21211", "21614"})
"""Errors for a number that does not exist or cannot receive SMS."""
_STOP_CODE = "21610"
"""The error for a recipient who answered STOP."""


def parse_request(url: str, signature: str, body: bytes, auth_token: str, now: datetime) -> list[DeliveryEvent]:
    """The callback's event if final; `url` is the complete public URL, query included. InvalidSignature; InvalidInput."""
    try:
        form = dict(
            parse_qsl(
                body.decode(),
                keep_blank_values=True,
                strict_parsing=bool(body),
                errors="strict",
                max_num_fields=MAX_FIELDS,
            )
        )
    except ValueError:
        raise InvalidInput(
            "body", f"must be a form (application/x-www-form-urlencoded) of at most {MAX_FIELDS} fields"
        ) from None
    if not any(_signature_matches(each, form, signature, auth_token) for each in _url_variants(url)):
        raise InvalidSignature("its signature is missing or wrong")
    status, number = form.get("MessageStatus"), form.get("To", "")
    sid = form.get("MessageSid") or form.get("SmsSid")
    if not sid or not status:
        raise InvalidInput("body", "must have MessageSid and MessageStatus")
    code = form.get("ErrorCode", "")
    common: dict[str, Any] = {
        "source_id": f"{sid}/{status}", "channel": "sms", "at": now, "recipient": number, "provider_id": sid,
        "detail": join_text(f"error {code}" if code else None, form.get("ErrorMessage")),
    }  # fmt: skip
    if status in {"delivered", "read"}:
        return [DeliveryEvent(event="delivered", **common)]
    if status in {"undelivered", "failed"}:
        if code == _STOP_CODE:
            return [DeliveryEvent(event="unsubscribed", suppress="unsubscribed", **common)]
        return [bounce(hard=code in _HARD_BOUNCE_CODES, **common)]
    return []


def _signature_matches(url: str, form: dict[str, str], signature: str, auth_token: str) -> bool:
    text = url + "".join(f"{name}{form[name]}" for name in sorted(form))
    expected = base64.b64encode(hmac.new(auth_token.encode(), text.encode(), hashlib.sha1).digest())
    return hmac.compare_digest(expected, signature.encode())


def _url_variants(url: str) -> list[str]:
    """The URL with and without the scheme's default port: Twilio signs either."""
    parts = urlsplit(url)
    port = _PORTS.get(parts.scheme)
    bare = parts.netloc.removesuffix(f":{port}")
    variants = [bare, f"{bare}:{port}"] if port and ":" not in bare else [parts.netloc]
    return [parts._replace(netloc=netloc).geturl() for netloc in variants]
