"""Normalized addresses: one key per recipient, however the address is written."""

from __future__ import annotations

import re

from backline.channels.recipients import parse_address
from backline.errors import InvalidInput

CHANNELS = ("email", "sms", "push", "webhook")


def address_key(channel: str, recipient: str) -> str:
    """The bare address in lower case, its domain as punycode, or a phone number; like SQL's `backline.address_key`."""
    if channel == "email":
        key = recipient.rpartition("<")[2].strip(" >").lower()
        if key.isascii():
            return key
        try:
            return parse_address(key, "address").addr_spec.lower()
        except InvalidInput:  # the channel refuses it with the reason
            return key
    if channel == "sms":
        return re.sub(r"[^+0-9]", "", recipient)
    return recipient.strip(" ")


def validate_address(channel: str, address: str) -> str:
    """The key of an address from outside; InvalidInput names an invalid channel or address."""
    if channel not in CHANNELS:
        raise InvalidInput("channel", f"{channel[:40]!r} is not a channel; use one of: {', '.join(CHANNELS)}")
    if channel == "email":
        return parse_address(address, "address").addr_spec.lower()
    if not address.isprintable() or len(address) > 400:
        raise InvalidInput("address", "must be one line of at most 400 characters")
    key = address_key(channel, address)
    if channel == "sms" and not re.fullmatch(r"\+[1-9][0-9]{6,14}", key):
        raise InvalidInput("address", "must be a number with its country code, such as +491701234567 (E.164)")
    if not key:
        raise InvalidInput("address", "is missing")
    return key
