"""Our signatures, verified as receivers do: v1 with the package of Standard Webhooks, v1a with the public key."""

from __future__ import annotations

import time
from base64 import b64decode

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from backline.channels.webhook.signatures import new_secret, public_key, signature_header

BODY = '{"type":"order.paid","timestamp":"2026-03-01T18:30:00.000Z","data":{"order":"1042","näme":"Änn"}}'.encode()


def headers(secrets: list[str], at: int | None = None) -> dict[str, str]:
    timestamp = int(time.time()) if at is None else at
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature_header(secrets, "evt_1", timestamp, BODY),
    }


def test_the_specifications_own_example_has_our_signature() -> None:
    signed = signature_header(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_accepts_our_signature() -> None:
    secret = new_secret("v1")
    assert Webhook(secret).verify(BODY, headers([secret]))["type"] == "order.paid"


@pytest.mark.parametrize("field", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_tampered_header_is_refused(field: str) -> None:
    secret = new_secret("v1")
    changed = headers([secret])
    changed[field] = {
        "webhook-id": "evt_2",
        "webhook-timestamp": str(int(changed["webhook-timestamp"]) + 1),
        "webhook-signature": "v1," + "A" * 43 + "=",
    }[field]
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, changed)


def test_a_tampered_body_and_a_foreign_secret_are_refused() -> None:
    secret = new_secret("v1")
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY.replace(b"1042", b"1043"), headers([secret]))
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret("v1")).verify(BODY, headers([secret]))


def test_an_old_delivery_is_refused() -> None:
    secret = new_secret("v1")
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(secret).verify(BODY, headers([secret], int(time.time()) - 600))


def test_any_of_several_secrets_is_accepted() -> None:
    new, old, keys = new_secret("v1"), new_secret("v1"), new_secret("v1a")
    signed = headers([new, keys, old])
    assert [one.partition(",")[0] for one in signed["webhook-signature"].split()] == ["v1", "v1a", "v1"]
    for secret in (new, old):
        Webhook(secret).verify(BODY, signed)


def test_a_public_key_verifies_v1a_and_nothing_else() -> None:
    secret = new_secret("v1a")
    shown = public_key(secret)
    assert shown is not None
    assert shown.startswith("whpk_")
    assert b64decode(shown.removeprefix("whpk_")) != b64decode(secret.removeprefix("whsk_"))
    scheme, _, signature = signature_header([secret], "evt_1", 1700000000, BODY).partition(",")
    assert scheme == "v1a"
    key = Ed25519PublicKey.from_public_bytes(b64decode(shown.removeprefix("whpk_")))
    key.verify(b64decode(signature), b"evt_1.1700000000." + BODY)
    with pytest.raises(InvalidSignature):
        key.verify(b64decode(signature), b"evt_1.1700000001." + BODY)
    assert public_key(new_secret("v1")) is None


def test_secrets_differ_and_have_the_required_length() -> None:
    secrets = {new_secret("v1") for _ in range(20)}
    assert len(secrets) == 20
    assert {len(b64decode(secret.removeprefix("whsec_"))) for secret in secrets} == {32}
