"""Encrypts secret fields by Fernet (https://github.com/fernet/spec); the newest, first of BACKLINE_FERNET_KEYS encrypts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from backline.errors import InvalidInput, Misconfigured

KEYS_VARIABLE = "BACKLINE_FERNET_KEYS"


class Encryptor:
    """Encrypts and decrypts secret fields."""

    def __init__(self, keys: Iterable[str]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise Misconfigured(
                f"{KEYS_VARIABLE}: needs at least one Fernet key (32 bytes, url-safe base64), newest first, separated by commas"
            ) from None

    @classmethod
    def from_environment(cls) -> Encryptor:
        """The keys of BACKLINE_FERNET_KEYS; Misconfigured if there are none."""
        return cls(key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip())

    def encrypt(self, value: str) -> str:
        """Encrypt one value."""
        return self._fernet.encrypt(value.encode()).decode()

    def decrypt(self, field: str, ciphertext: str) -> str:
        """Decrypt one value; InvalidInput for the field when no key decrypts it."""
        try:
            return self._fernet.decrypt(ciphertext).decode()
        except (InvalidToken, TypeError, ValueError):
            raise InvalidInput(
                field,
                f"none of the keys in {KEYS_VARIABLE} decrypts it; encrypt it with one of them, or add the key that was used",
            ) from None


@lru_cache(maxsize=1)
def encryptor() -> Encryptor:
    """The encryptor of this process, with the keys of the environment."""
    return Encryptor.from_environment()
