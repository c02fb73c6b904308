"""Secret fields as they come from outside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.secrets import (
    Reference,
    check_no_plaintext_secrets,
    encrypt_secrets,
    is_encrypted,
    parse_reference,
)

RESET = registry.get("password_reset")
TOKEN = "s3cret-token-of-ann"
SECRET_TYPES = [kind for kind in registry.all_types() if kind.secret_fields]


def encrypt(value: str) -> str:
    return "gAAAAAB-" + value[::-1]


@pytest.mark.parametrize("kind", SECRET_TYPES, ids=lambda kind: kind.type_name)
def test_every_secret_has_a_fake_and_a_reference_in_its_example(kind: type[Any]) -> None:
    for name in kind.secret_fields:
        assert kind.sample()[name] == kind.fake_secret(name)
        assert parse_reference(kind, name, kind.example[name]).statement in kind.secret_references[name]


@pytest.mark.parametrize("token", ["gAAAAAB-encrypted", {"$ref": "password_reset_token", "id": 17}])
def test_encrypted_values_and_references_are_accepted_without_decryption(token: Any) -> None:
    check_no_plaintext_secrets(RESET, {"name": "Ann", "token": token})
    with pytest.raises(InvalidInput, match=r"^name: is required"):
        check_no_plaintext_secrets(RESET, {"token": token})


@pytest.mark.parametrize("token", [TOKEN, "", 123456, ["x"], True])
def test_a_plaintext_secret_is_refused_and_not_repeated(token: Any) -> None:
    with pytest.raises(InvalidInput, match="must not be plaintext here; give Fernet text") as caught:
        check_no_plaintext_secrets(RESET, {"name": "Ann", "token": token})
    assert caught.value.field == "token"
    assert '{"$ref": "password_reset_token", "id": ...}' in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_required_secret_that_is_missing_is_named() -> None:
    for payload in ({"name": "Ann"}, {"name": "Ann", "token": None}):
        with pytest.raises(InvalidInput) as caught:
            check_no_plaintext_secrets(RESET, payload)
        assert caught.value.field == "token"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"$ref": "email_verification_token", "id": 1}, 'must be a reference like {"$ref": "password_reset_token"'),
        ({"$ref": "message_claim", "id": 1}, "must be a reference like"),
        ({"$ref": ["password_reset_token"], "id": 1}, "must be a reference like"),
        ({"$ref": "password_reset_token"}, "must be a reference like"),
        ({"$ref": "password_reset_token", "id": 1, "value": "x"}, "with no other keys"),
        ({"$ref": "password_reset_token", "id": None}, "must be a number or"),
        ({"$ref": "password_reset_token", "id": True}, "must be a number or"),
        ({"$ref": "password_reset_token", "id": 1.5}, "must be a number or"),
        ({"$ref": "password_reset_token", "id": ""}, "must be a number or"),
        ({"$ref": "password_reset_token", "id": "x" * 201}, "must be a number or"),
    ],
)
def test_only_the_statements_of_the_field_can_be_referred_to(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_no_plaintext_secrets(RESET, {"name": "Ann", "token": given})
    assert caught.value.field == "token"
    assert text in str(caught.value)


def test_a_reference_is_shown_with_its_statement_and_id() -> None:
    found = parse_reference(RESET, "token", {"$ref": "password_reset_token", "id": "a-7"})
    assert found == Reference("password_reset_token", "a-7")
    assert str(found) == "password_reset_token with id 'a-7'"


def test_only_plaintext_secrets_are_encrypted() -> None:
    payload = {"name": "Ann", "token": TOKEN}
    done = encrypt_secrets(RESET, payload, encrypt)
    assert done == {"name": "Ann", "token": encrypt(TOKEN)}
    assert is_encrypted(done["token"])
    assert encrypt_secrets(RESET, done, encrypt) == done
    referring = {"name": "Ann", "token": {"$ref": "password_reset_token", "id": 1}}
    assert encrypt_secrets(RESET, referring, encrypt) == referring


NOW = datetime(2029, 1, 1, tzinfo=UTC)


def test_the_message_expires_when_its_token_does() -> None:
    assert RESET.expiry({"valid_until": "2030-01-31T12:00:00Z"}, NOW) == datetime(2030, 1, 31, 12, tzinfo=UTC)
    assert RESET.expiry({}, NOW) is None
    assert registry.get("welcome").expiry({"valid_until": "2030-01-31T12:00:00Z"}, NOW) is None


def test_a_code_lives_five_minutes() -> None:
    assert registry.get("mfa_code").expiry({"code": "402913"}, NOW) == NOW + timedelta(minutes=5)
