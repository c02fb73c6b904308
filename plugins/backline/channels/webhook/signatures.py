"""Signatures of Standard Webhooks: v1 is HMAC-SHA256 with a shared secret, v1a is ed25519 with a public key.

The signed text is `webhook-id`, `webhook-timestamp` and the body, joined by full stops. The header `webhook-signature`
holds one signature per secret, separated by spaces. The receiver accepts any valid one, so a secret can be rotated.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from datetime import UTC, datetime
from secrets import token_bytes
from typing import Literal, get_args

Scheme = Literal["v1", "v1a"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

SECRET_PREFIX = {"v1": "whsec_", "v1a": "whsk_"}
PUBLIC_KEY_PREFIX = "whpk_"
_SECRET_BYTES = 32
"""Length of a secret: the specification requires 24 to 64, and ed25519 requires 32."""


def new_secret(scheme: Scheme) -> str:
    """A new secret in its text form: prefix and base64."""
    return SECRET_PREFIX[scheme] + b64encode(token_bytes(_SECRET_BYTES)).decode()


def public_key(secret: str) -> str | None:
    """The public key to verify signatures of this v1a secret; None for v1, whose secret is shared."""
    if not secret.startswith(SECRET_PREFIX["v1a"]):
        return None
    # Imported here because most endpoints have a shared secret.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(_decode_key(secret)).public_key()
    return PUBLIC_KEY_PREFIX + b64encode(key.public_bytes_raw()).decode()


def signature_header(secrets: Iterable[str], event_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`; `timestamp` is the attempt's, in seconds since 1970."""
    return " ".join(_signature(secret, event_id, timestamp, body) for secret in secrets)


def _signature(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    # Both libraries are slow to import, and most tasks sign nothing.
    if secret.startswith(SECRET_PREFIX["v1"]):
        from standardwebhooks import Webhook

        return Webhook(secret).sign(event_id, datetime.fromtimestamp(timestamp, UTC), body.decode())
    content = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return "v1a," + b64encode(Ed25519PrivateKey.from_private_bytes(_decode_key(secret)).sign(content)).decode()


def _decode_key(secret: str) -> bytes:
    return b64decode(secret.partition("_")[2])
