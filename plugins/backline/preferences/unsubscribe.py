"""The link by which a recipient leaves a topic: an opaque token says who, which topic and by which message."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from backline.encryption import Encryptor
from backline.errors import InvalidInput
from backline.rendering.settings import LinkSettings
from backline.settings import settings

ALL_TOPICS = "*"
"""In the place of a topic: everything that can be left."""
_TOKEN_PURPOSE = "unsubscribe"  # noqa: S105 - not a password
_MAX_TOKEN_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a link leaves."""

    channel: str
    address: str
    """As `recipients.address_key` has it."""
    topic: str
    message_id: int | None = None
    """The message that the link stands in."""


def create_token(subscription: Subscription, encryptor: Encryptor) -> str:
    """The link's token: encrypted and signed by the newest of BACKLINE_FERNET_KEYS. It has no end, as mails are kept long."""
    one = subscription
    return encryptor.encrypt(json.dumps([_TOKEN_PURPOSE, one.channel, one.address, one.topic, one.message_id])).rstrip(
        "="
    )


def read_token(token: str, encryptor: Encryptor) -> Subscription | None:
    """What a token says; None unless it is one of ours, whole and unchanged."""
    if len(token) > _MAX_TOKEN_LENGTH or not token.isascii():
        return None
    try:
        told = json.loads(encryptor.decrypt("token", token + "=" * (-len(token) % 4)))
    except (InvalidInput, ValueError):
        return None
    # What else the keys have sealed is no link.
    match told:
        case [mark, str(channel), str(address), str(topic), None | int() as message_id] if mark == _TOKEN_PURPOSE:
            return Subscription(channel, address, topic, message_id)
    return None


def unsubscribe_link(subscription: Subscription) -> str:
    """The whole link, by the setting `links.unsubscribe`. Misconfigured without BACKLINE_FERNET_KEYS."""
    return link_for_token(create_token(subscription, _encryptor()))


def link_for_token(token: str) -> str:
    """A token's link."""
    return settings().section(LinkSettings).unsubscribe.replace("{token}", token)


@lru_cache(maxsize=1)
def _encryptor() -> Encryptor:
    return Encryptor.from_environment()
