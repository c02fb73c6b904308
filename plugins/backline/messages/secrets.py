"""Secret payload fields: encrypted by the app, or a reference that is resolved when the message is sent.

A reference is `{"$ref": "password_reset_token", "id": 17}`: the name of a statement of include/sql/identity.sql and
its parameter. A type lists the statements that each of its secret fields may name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from backline.errors import InvalidInput
from backline.messages.base import MessageType

REFERENCE_KEY = "$ref"
FERNET_PREFIX = "gAAAA"
"""How Fernet text begins (version 0x80 and the high bytes of its time), as `backline.enqueue` knows it too."""
MAX_ID_LENGTH = 200


class Reference(NamedTuple):
    """Where a secret is looked up."""

    statement: str
    id: int | str

    def __str__(self) -> str:
        return f"{self.statement} with id {self.id!r}"


def is_encrypted(value: object) -> bool:
    """Whether this looks like Fernet text."""
    return isinstance(value, str) and value.startswith(FERNET_PREFIX)


def parse_reference(kind: type[MessageType], name: str, value: Mapping[str, object]) -> Reference:
    """A secret field's reference, checked; InvalidInput for the field otherwise."""
    allowed = kind.secret_references.get(name, ())
    if not allowed:
        raise InvalidInput(name, f"{kind.type_name} takes no references here; give Fernet text that your app encrypted")
    statement, identity = value.get(REFERENCE_KEY), value.get("id")
    if set(value) != {REFERENCE_KEY, "id"} or statement not in allowed:
        names = " or ".join(f'"{one}"' for one in allowed)
        raise InvalidInput(name, f'must be a reference like {{"$ref": {names}, "id": 17}}, with no other keys')
    if (
        isinstance(identity, bool)
        or not isinstance(identity, int | str)
        or not 1 <= len(str(identity)) <= MAX_ID_LENGTH
    ):
        raise InvalidInput(name, f"the id of {statement} must be a number or 1 to {MAX_ID_LENGTH} characters of text")
    return Reference(statement, identity)


def check_no_plaintext_secrets(kind: type[MessageType], payload: Mapping[str, object]) -> None:
    """Check that no secret is plaintext; InvalidInput names the field. Ciphertext and references are checked when sent."""
    refuse_plaintext_secrets(kind, payload)
    check_payload(kind, payload)


def is_plaintext(value: object) -> bool:
    """Whether a secret field's value is neither encrypted nor a reference; null is no value."""
    return value is not None and not isinstance(value, Mapping) and not is_encrypted(value)


def refuse_plaintext_secrets(kind: type[MessageType], values: Mapping[str, object]) -> None:
    """InvalidInput for the first secret field that is plaintext."""
    for name in sorted(kind.secret_fields & set(values)):
        if is_plaintext(values[name]):
            raise InvalidInput(
                name,
                "is secret and must not be plaintext here; give Fernet text that your app encrypted"
                + (
                    f' or {{"$ref": "{kind.secret_references[name][0]}", "id": ...}}'
                    if name in kind.secret_references
                    else ""
                ),
            )


def check_payload(kind: type[MessageType], payload: Mapping[str, object]) -> None:
    """Validate by the type's model, with made-up values for references and encrypted secrets; InvalidInput names the field."""
    shown = dict(payload)
    for name in kind.secret_fields & set(payload):
        if isinstance(value := payload[name], Mapping):
            parse_reference(kind, name, value)
        if isinstance(value, Mapping) or is_encrypted(value):
            shown[name] = kind.fake_secret(name)
    kind.parse(shown)


def plaintext(
    kind: type[MessageType], payload: Mapping[str, object], value_for: Callable[[str], str]
) -> Mapping[str, object]:
    """The payload with a value from `value_for` for every secret that it has; itself when it has none."""
    present = [name for name in kind.secret_fields if payload.get(name) is not None]
    return {**payload, **{name: value_for(name) for name in present}} if present else payload


def encrypt_secrets(
    kind: type[MessageType], payload: Mapping[str, object], encrypt: Callable[[str], str]
) -> dict[str, Any]:
    """The payload with every plaintext secret encrypted; references and Fernet text stay."""
    return {
        name: encrypt(value)
        if name in kind.secret_fields and isinstance(value, str) and not is_encrypted(value)
        else value
        for name, value in payload.items()
    }
