from __future__ import annotations

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from backline.encryption import Encryptor
from backline.errors import InvalidInput, Misconfigured

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_an_encrypted_value_decrypts(value: str) -> None:
    encryptor = Encryptor([NEW])
    encrypted = encryptor.encrypt(value)
    assert encrypted.startswith("gAAAA")  # how backline.enqueue recognizes Fernet text
    assert encryptor.decrypt("code", encrypted) == value


def test_encrypting_the_same_value_twice_differs() -> None:
    assert Encryptor([NEW]).encrypt("123456") != Encryptor([NEW]).encrypt("123456")


def test_after_rotation_old_values_decrypt_and_the_newest_key_encrypts() -> None:
    encrypted = Encryptor([OLD]).encrypt("123456")
    rotated = Encryptor([NEW, OLD])
    assert rotated.decrypt("code", encrypted) == "123456"
    assert Encryptor([NEW]).decrypt("code", rotated.encrypt("x")) == "x"


@pytest.mark.parametrize(
    "encrypted",
    [Encryptor([OTHER]).encrypt("123456"), "123456", "", "gAAAA", {"$ref": "vault/x"}, 5],
    ids=["another key", "clear", "empty", "cut", "reference", "number"],
)
def test_a_value_that_no_key_decrypts_names_the_field_and_not_the_value(encrypted: str) -> None:
    with pytest.raises(InvalidInput, match=r"^code: none of the keys in BACKLINE_FERNET_KEYS decrypts it") as caught:
        Encryptor([NEW]).decrypt("code", encrypted)
    assert caught.value.field == "code"
    assert "123456" not in str(caught.value)


@pytest.mark.parametrize("keys", [[], ["short"], [NEW, "short"], ["*" * 44]])
def test_without_good_keys_the_variable_is_named(keys: list[str]) -> None:
    with pytest.raises(Misconfigured, match=r"^BACKLINE_FERNET_KEYS: needs at least one Fernet key"):
        Encryptor(keys)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKLINE_FERNET_KEYS", f" {NEW} , {OLD},")
    assert Encryptor.from_environment().decrypt("code", Encryptor([OLD]).encrypt("x")) == "x"
    monkeypatch.delenv("BACKLINE_FERNET_KEYS")
    with pytest.raises(Misconfigured, match="BACKLINE_FERNET_KEYS"):
        Encryptor.from_environment()
