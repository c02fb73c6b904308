"""Recipients as preferences know them, whatever an address is written like."""

from __future__ import annotations

import re

from backline.channels.email import addresses
from backline.errors import InvalidInput

CHANNELS = ("email", "sms", "push", "webhook")


def address_key(channel: str, recipient: str) -> str:
    """The bare address in lower case; a number without spaces. As `backline.address_key` has it; a test holds them equal.

    The domain of an international address becomes punycode, as providers tell it.
    """
    if channel == "email":
        key = recipient.rpartition("<")[2].strip(" >").lower()
        if key.isascii():
            return key
        try:
            return addresses.parse_address(key, "address").addr_spec.lower()
        except InvalidInput:  # whoever sends to it hears what is wrong with it
            return key
    if channel == "sms":
        return re.sub(r"[^+0-9]", "", recipient)
    return recipient.strip(" ")


def validate_address(channel: str, address: str) -> str:
    """The key of an address that somebody gives; InvalidInput names what is wrong with it."""
    if channel not in CHANNELS:
        raise InvalidInput("channel", f"{channel[:40]!r} is not a channel; use one of: {', '.join(CHANNELS)}")
    if channel == "email":
        return addresses.parse_address(address, "address").addr_spec.lower()
    if not address.isprintable() or len(address) > 400:
        raise InvalidInput("address", "must be one line of at most 400 characters")
    key = address_key(channel, address)
    if channel == "sms" and not re.fullmatch(r"\+[1-9][0-9]{6,14}", key):
        raise InvalidInput("address", "must be a number with its country, such as +491701234567 (E.164)")
    if not key:
        raise InvalidInput("address", "is missing")
    return key
