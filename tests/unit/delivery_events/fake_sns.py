"""Amazon SNS's side, with a key and a certificate of the test's own."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail-events"
CERTIFICATE_URL = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem"
HASHES = {"1": hashes.SHA1(), "2": hashes.SHA256()}


class FakeSns:
    """Signs as SNS does."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=30))
            .not_valid_after(now + timedelta(days=300))
            .sign(self.key, hashes.SHA256())
        )

    def fetch(self, url: str) -> bytes:
        assert url == CERTIFICATE_URL
        return self.certificate.public_bytes(Encoding.PEM)

    def notification(
        self, event: Any, *, version: str = "1", at: datetime | None = None, note_id: str = "n-1"
    ) -> bytes:
        message = event if isinstance(event, str) else json.dumps(event)
        return self._signed(
            {"Type": "Notification", "MessageId": note_id, "Message": message}, version, at,
            ("Message", "MessageId", "Timestamp", "TopicArn", "Type"),
        )  # fmt: skip

    def confirmation(self, url: str) -> bytes:
        return self._signed(
            {"Type": "SubscriptionConfirmation", "MessageId": "n-0", "Message": "You have chosen ...", "Token": "t", "SubscribeURL": url},
            "1", None, ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
        )  # fmt: skip

    def _signed(self, note: dict[str, str], version: str, at: datetime | None, fields: tuple[str, ...]) -> bytes:
        note = {**note, "TopicArn": TOPIC, "Timestamp": (at or self.now).strftime("%Y-%m-%dT%H:%M:%S.000Z")}
        text = "".join(f"{name}\n{note[name]}\n" for name in fields)
        signature = self.key.sign(text.encode(), padding.PKCS1v15(), HASHES[version])
        signed = {"SignatureVersion": version, "SigningCertURL": CERTIFICATE_URL}
        return json.dumps({**note, **signed, "Signature": base64.b64encode(signature).decode()}).encode()
