"""Signatures of Standard Webhooks: v1 is HMAC-SHA256 with a shared secret, v1a ed25519 with a public key.

What is signed is `webhook-id`, `webhook-timestamp` and the body, joined by full stops. The header `webhook-signature`
holds one signature a secret, with blanks between: the receiver takes any that fits, so that a secret can be replaced.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Literal, get_args

Scheme = Literal["v1", "v1a"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

SECRET_PREFIX = {"v1": "whsec_", "v1a": "whsk_"}
PUBLIC_KEY_PREFIX = "whpk_"
_SECRET_BYTES = 32
"""Of a secret: the specification asks for 24 to 64, and ed25519 for 32."""


def new_secret(scheme: Scheme) -> str:
    """A new secret as people copy it: prefix and base64."""
    return SECRET_PREFIX[scheme] + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def public_key(secret: str) -> str | None:
    """What a receiver checks signatures of this v1a secret with; None for v1, whose secret both sides have."""
    if not secret.startswith(SECRET_PREFIX["v1a"]):
        return None
    # Late: most endpoints have a shared secret.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(_decode_key(secret)).public_key()
    return PUBLIC_KEY_PREFIX + b64encode(key.public_bytes_raw()).decode()


def signature_header(signing: Iterable[str], event_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`; `signing` are the secrets, `timestamp` the try's in seconds since 1970."""
    content = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    return " ".join(_signature(secret, content) for secret in signing)


def _signature(secret: str, content: bytes) -> str:
    if secret.startswith(SECRET_PREFIX["v1"]):
        return "v1," + b64encode(hmac.digest(_decode_key(secret), content, hashlib.sha256)).decode()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return "v1a," + b64encode(Ed25519PrivateKey.from_private_bytes(_decode_key(secret)).sign(content)).decode()


def _decode_key(secret: str) -> bytes:
    return b64decode(secret.partition("_")[2])
