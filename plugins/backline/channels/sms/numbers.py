"""Parses phone numbers and normalizes them to E.164."""

from __future__ import annotations

from functools import lru_cache

from backline.errors import InvalidInput

MAX_INPUT_LENGTH = 40
"""Characters of a number as typed, including spaces and brackets."""
_HINT = "write it with its country code, for example +49 1511 2345678"


def parse_phone_number(text: str, field: str) -> str:
    """A number with its country code, in any usual notation, as E.164 (ITU-T): +4915112345678.

    InvalidInput names the field. Only the length is checked for its country: which ranges are in use changes too often,
    and the gateway knows.
    """
    try:
        return _parse_phone_number(text)
    except ValueError as exc:
        raise InvalidInput(field, str(exc)) from None


@lru_cache(maxsize=4096)
def _parse_phone_number(text: str) -> str:
    # Imported here because it is slow to import, and most tasks do not need it.
    import phonenumbers

    stripped = text.strip()
    if len(stripped) > MAX_INPUT_LENGTH or not stripped.isascii() or not stripped.isprintable():
        raise ValueError(f"{stripped[:MAX_INPUT_LENGTH]!r} is not a phone number; {_HINT}")
    if not stripped.startswith("+"):
        raise ValueError(f"{stripped!r} lacks its country code; {_HINT}")
    if any(char.isalpha() for char in stripped):
        raise ValueError(f"{stripped!r} is not a phone number: it has letters; {_HINT}")
    try:
        number = phonenumbers.parse(stripped)
    except phonenumbers.NumberParseException:
        raise ValueError(f"{stripped!r} is not a phone number: no country has that code; {_HINT}") from None
    match phonenumbers.is_possible_number_with_reason(number):
        case phonenumbers.ValidationResult.TOO_SHORT:
            problem = "too short"
        case phonenumbers.ValidationResult.TOO_LONG:
            problem = "too long"
        case phonenumbers.ValidationResult.IS_POSSIBLE:
            return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
        case _:
            problem = "of the wrong length"
    raise ValueError(f"{stripped!r} is {problem} for its country; {_HINT}")
