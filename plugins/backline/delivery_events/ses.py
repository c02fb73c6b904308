"""Amazon SES events over SNS: notifications signed with a certificate of Amazon's.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html and
https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature as BadSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from backline.delivery_events import events
from backline.delivery_events.events import DeliveryEvent, InvalidSignature
from backline.errors import InvalidInput

SOURCE = "ses"
Fetch = Callable[[str], bytes]
"""Fetches an https URL of Amazon's without following redirects."""
_SNS_HOST = re.compile(r"sns\.[a-z]{2}(-[a-z]+)+-\d\.amazonaws\.com(\.cn)?")
_SIGNED_FIELDS = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
_HASHES: dict[str, hashes.HashAlgorithm] = {"1": hashes.SHA1(), "2": hashes.SHA256()}  # noqa: S303 - SNS's first version


class CertificateCache:
    """Amazon's certificates by URL, each fetched once."""

    MAX_CERTIFICATES = 16

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch
        self._cache: dict[str, x509.Certificate] = {}

    def get(self, url: str, now: datetime) -> x509.Certificate:
        """The certificate at a URL; InvalidSignature unless it is on an SNS host of Amazon's and valid now."""
        if not is_sns_url(url) or not urlsplit(url).path.endswith(".pem"):
            raise InvalidSignature("its certificate is not at an SNS host of Amazon's")
        if url not in self._cache:
            try:
                found = x509.load_pem_x509_certificate(self.fetch(url))
            except ValueError:
                raise InvalidSignature("its certificate's URL returns no certificate") from None
            if len(self._cache) >= self.MAX_CERTIFICATES:
                self._cache.clear()
            self._cache[url] = found
        certificate = self._cache[url]
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise InvalidSignature("its certificate is not valid now")
        return certificate


def is_sns_url(url: str) -> bool:
    """Whether a URL is https on an SNS host of Amazon's."""
    parts = urlsplit(url)
    return parts.scheme == "https" and _SNS_HOST.fullmatch(parts.netloc) is not None


def parse_request(
    body: bytes, topics: Sequence[str], certificates: CertificateCache, now: datetime
) -> tuple[list[DeliveryEvent], str | None]:
    """The events, and the URL to confirm a subscription; `topics` are the accepted ARNs. InvalidSignature; InvalidInput."""
    note = events.require_object(events.parse_json(body, "body"), "body")
    _verify(note, topics, certificates, now)
    if note["Type"] == "SubscriptionConfirmation":
        url = note["SubscribeURL"]
        if not is_sns_url(url):
            raise InvalidSignature("its SubscribeURL is not at an SNS host of Amazon's")
        return [], url
    if note["Type"] != "Notification":
        return [], None
    try:
        message = events.require_object(events.parse_json(note["Message"], "Message"), "Message")
    except InvalidInput:  # SNS sends plain text when a topic is set up
        return [], None
    try:
        return list(_events(message, note["MessageId"])), None
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise InvalidInput("Message", f"is not an event of SES: {type(exc).__name__}") from None


def _verify(note: dict[str, Any], topics: Sequence[str], certificates: CertificateCache, now: datetime) -> None:
    fields = _SIGNED_FIELDS.get(str(note.get("Type")))
    needed = {*(fields or ()), "Signature", "SigningCertURL"} - {"Subject"}
    if fields is None or not all(isinstance(note.get(name), str) for name in needed):
        raise InvalidInput("body", "is not a message of SNS (raw message delivery must be off)")
    if note["TopicArn"] not in topics:
        raise InvalidSignature("its topic is not among hooks.ses_topic_arns")
    algorithm = _HASHES.get(str(note.get("SignatureVersion")))
    if algorithm is None:
        raise InvalidSignature("its signature is of an unknown version")
    text = "".join(f"{name}\n{note[name]}\n" for name in fields if note.get(name) is not None)
    key = certificates.get(note["SigningCertURL"], now).public_key()
    try:
        if not isinstance(key, rsa.RSAPublicKey):
            raise InvalidSignature("its certificate is not one of SNS")
        key.verify(base64.b64decode(note["Signature"], validate=True), text.encode(), padding.PKCS1v15(), algorithm)
    except (BadSignature, binascii.Error):
        raise InvalidSignature("its signature is wrong") from None
    events.check_signature_age(_parse_time(note["Timestamp"]), now)


_PARTS = {
    "Delivery": ("delivery", "recipients"),
    "Bounce": ("bounce", "bouncedRecipients"),
    "Complaint": ("complaint", "complainedRecipients"),
    "DeliveryDelay": ("deliveryDelay", "delayedRecipients"),
}
"""Event type to the message's part about it, and the part's list of recipients."""


def _events(message: dict[str, Any], note_id: str) -> Iterator[DeliveryEvent]:
    mail = message["mail"]
    header = next((one["value"] for one in mail.get("headers", ()) if one["name"].lower() == "message-id"), None)
    kind = message.get("eventType") or message.get("notificationType")
    if kind == "Reject":
        part, recipients = {**message["reject"], "timestamp": mail["timestamp"]}, mail.get("destination", ())
    elif kind in _PARTS:
        part_name, list_name = _PARTS[kind]
        part, recipients = message[part_name], message[part_name][list_name]
    else:
        return
    for recipient in recipients:
        data = recipient if isinstance(recipient, dict) else {"emailAddress": recipient}
        common: dict[str, Any] = {
            "source_id": f"{note_id}/{data['emailAddress']}", "channel": "email", "at": _parse_time(part["timestamp"]),
            "recipient": data["emailAddress"], "message_id": header, "provider_id": mail["messageId"],
        }  # fmt: skip
        if kind == "Delivery":
            yield DeliveryEvent(event="delivered", detail=events.join_text(part.get("smtpResponse")), **common)
        elif kind == "Bounce":
            detail = events.join_text(part.get("bounceSubType"), data.get("diagnosticCode") or data.get("status"))
            yield events.bounce(hard=part["bounceType"] == "Permanent", detail=detail, **common)
        elif kind == "DeliveryDelay":
            detail = events.join_text(part.get("delayType"), data.get("diagnosticCode"))
            yield DeliveryEvent(event="deferred", detail=detail, **common)
        elif kind == "Reject":
            yield DeliveryEvent(event="rejected", detail=events.join_text(part.get("reason")), **common)
        elif part.get("complaintFeedbackType") != "not-spam":
            detail = events.join_text(part.get("complaintFeedbackType"))
            yield DeliveryEvent(event="complained", suppress="complaint", detail=detail, **common)


def _parse_time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise InvalidInput("timestamp", "must be a time with its zone") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
