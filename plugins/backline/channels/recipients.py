"""Parses recipients of SMS, push messages and webhooks; `email.addresses` parses those of email."""

from __future__ import annotations

import re
from functools import lru_cache

from backline.channels.content import ALL_ENDPOINTS
from backline.errors import InvalidInput

MAX_NUMBER_LENGTH = 40
"""Characters of a number as typed, including spaces and brackets."""
_NUMBER_HINT = "write it with its country code, for example +49 1511 2345678"
USER_PREFIX = "user:"
"""Prefix of a recipient that means all devices of one user: `user:17`."""
_DEVICE_TOKEN = re.compile(r"[!-~]{8,4096}")
_USER_ID = re.compile(r"[!-~]{1,200}")
_ENDPOINT_ID = re.compile(r"ep_[0-9]{1,18}")


@lru_cache(maxsize=4096)
def parse_phone_number(text: str, field: str) -> str:
    """A number with its country code, in any usual notation, as E.164 (ITU-T): +4915112345678.

    InvalidInput names the field. Only the length is checked for its country: which ranges are in use changes too often,
    and the gateway knows.
    """
    # Imported here because it is slow to import, and most tasks do not need it.
    import phonenumbers

    stripped = text.strip()
    if len(stripped) > MAX_NUMBER_LENGTH or not stripped.isascii() or not stripped.isprintable():
        raise InvalidInput(field, f"{stripped[:MAX_NUMBER_LENGTH]!r} is not a phone number; {_NUMBER_HINT}")
    if not stripped.startswith("+"):
        raise InvalidInput(field, f"{stripped!r} lacks its country code; {_NUMBER_HINT}")
    if any(char.isalpha() for char in stripped):
        raise InvalidInput(field, f"{stripped!r} is not a phone number: it has letters; {_NUMBER_HINT}")
    try:
        number = phonenumbers.parse(stripped)
    except phonenumbers.NumberParseException:
        raise InvalidInput(
            field, f"{stripped!r} is not a phone number: no country has that code; {_NUMBER_HINT}"
        ) from None
    match phonenumbers.is_possible_number_with_reason(number):
        case phonenumbers.ValidationResult.TOO_SHORT:
            problem = "too short"
        case phonenumbers.ValidationResult.TOO_LONG:
            problem = "too long"
        case phonenumbers.ValidationResult.IS_POSSIBLE:
            return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
        case _:
            problem = "of the wrong length"
    raise InvalidInput(field, f"{stripped!r} is {problem} for its country; {_NUMBER_HINT}")


def parse_push_recipient(text: str, field: str) -> str:
    """A device token or `user:ID`, checked; InvalidInput names the field."""
    text = text.strip()
    if text.startswith(USER_PREFIX):
        if not _USER_ID.fullmatch(text.removeprefix(USER_PREFIX)):
            raise InvalidInput(field, "needs a user id after user:, at most 200 characters, for example user:17")
    elif not _DEVICE_TOKEN.fullmatch(text):
        advice = "give the token that the device got from its provider, or user:17 for all devices of a user"
        raise InvalidInput(field, f"{text[:80]!r} is not a device token; {advice}")
    return text


def parse_webhook_recipient(text: str, field: str) -> str:
    """`*` or an endpoint id, checked for its form only; InvalidInput names the field."""
    if text == ALL_ENDPOINTS or _ENDPOINT_ID.fullmatch(text):
        return text
    raise InvalidInput(field, 'must be "*" for every subscribed endpoint, or an endpoint id such as "ep_1"')
