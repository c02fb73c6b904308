from __future__ import annotations

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from backline.encryption import Encryptor
from backline.errors import InvalidInput, Misconfigured

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_an_encrypted_value_can_be_decrypted(value: str) -> None:
    encryptor = Encryptor([NEW])
    encrypted = encryptor.encrypt(value)
    assert encrypted.startswith("gAAAA")  # by which backline.enqueue recognizes encrypted values
    assert encryptor.decrypt("code", encrypted) == value


def test_equal_values_have_different_encrypted_texts() -> None:
    assert Encryptor([NEW]).encrypt("123456") != Encryptor([NEW]).encrypt("123456")


def test_after_rotation_old_keys_decrypt_and_the_newest_encrypts() -> None:
    encrypted = Encryptor([OLD]).encrypt("123456")
    rotated = Encryptor([NEW, OLD])
    assert rotated.decrypt("code", encrypted) == "123456"
    assert Encryptor([NEW]).decrypt("code", rotated.encrypt("x")) == "x"


@pytest.mark.parametrize(
    "value",
    [Encryptor([OTHER]).encrypt("123456"), "123456", "", "gAAAA", {"$ref": "vault/x"}, 5],
    ids=["another key", "plaintext", "empty", "truncated", "reference", "number"],
)
def test_a_value_that_no_key_decrypts_is_an_error_with_the_field_and_without_the_value(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"^code: none of the keys in BACKLINE_FERNET_KEYS decrypts it") as caught:
        Encryptor([NEW]).decrypt("code", value)
    assert caught.value.field == "code"
    assert "123456" not in str(caught.value)


@pytest.mark.parametrize("keys", [[], ["short"], [NEW, "short"], ["*" * 44]])
def test_without_valid_keys_the_error_names_the_variable(keys: list[str]) -> None:
    with pytest.raises(Misconfigured, match=r"^BACKLINE_FERNET_KEYS: needs at least one Fernet key"):
        Encryptor(keys)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKLINE_FERNET_KEYS", f" {NEW} , {OLD},")
    assert Encryptor.from_environment().decrypt("code", Encryptor([OLD]).encrypt("x")) == "x"
    monkeypatch.delenv("BACKLINE_FERNET_KEYS")
    with pytest.raises(Misconfigured, match="BACKLINE_FERNET_KEYS"):
        Encryptor.from_environment()
