"""Whom a push message is for: one device, or a person with all of theirs."""

from __future__ import annotations

import re

from backline.errors import InvalidInput

USER_PREFIX = "user:"
"""How a person's recipient begins: `user:17`."""
_TOKEN = re.compile(r"[!-~]{8,4096}")
_USER_ID = re.compile(r"[!-~]{1,200}")


def parse_push_recipient(text: str, field: str) -> str:
    """A device's token or `user:ID`, checked; InvalidInput names the field."""
    text = text.strip()
    if text.startswith(USER_PREFIX):
        if not _USER_ID.fullmatch(text.removeprefix(USER_PREFIX)):
            raise InvalidInput(field, "must have the person's id after user:, at most 200 characters, such as user:17")
    elif not _TOKEN.fullmatch(text):
        how = "give the token that the device got from its provider, or user:17 for all devices of a person"
        raise InvalidInput(field, f"{text[:80]!r} is not a device's token; {how}")
    return text
