"""Recipients of push messages and webhooks; `email.addresses` and `sms.numbers` parse the others."""

from __future__ import annotations

import re

from backline.channels.content import ALL_ENDPOINTS
from backline.errors import InvalidInput

USER_PREFIX = "user:"
"""Prefix of a recipient that means all devices of one user: `user:17`."""
_DEVICE_TOKEN = re.compile(r"[!-~]{8,4096}")
_USER_ID = re.compile(r"[!-~]{1,200}")
_ENDPOINT_ID = re.compile(r"ep_[0-9]{1,18}")


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
