"""Unsubscribe links: an encrypted token names the recipient, the topic and the message."""

from __future__ import annotations

import json
from dataclasses import dataclass

from backline.encryption import Encryptor, encryptor
from backline.errors import InvalidInput
from backline.rendering.settings import LinkSettings
from backline.settings import settings

ALL_TOPICS = "*"
"""Instead of a topic: all topics."""
_TOKEN_PURPOSE = "unsubscribe"  # noqa: S105 - not a password
_MAX_TOKEN_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class Subscription:
    """The recipient and topic of an unsubscribe link."""

    channel: str
    address: str
    """An `addresses.address_key`."""
    topic: str
    message_id: int | None = None
    """The message that contains the link."""


def create_token(subscription: Subscription, keys: Encryptor) -> str:
    """The link's token, encrypted with the newest of BACKLINE_FERNET_KEYS. It does not expire, as emails are kept."""
    one = subscription
    content = json.dumps([_TOKEN_PURPOSE, one.channel, one.address, one.topic, one.message_id])
    return keys.encrypt(content).rstrip("=")


def read_token(token: str, keys: Encryptor) -> Subscription | None:
    """A token's subscription; None if the token is not valid."""
    if len(token) > _MAX_TOKEN_LENGTH or not token.isascii():
        return None
    try:
        content = json.loads(keys.decrypt("token", token + "=" * (-len(token) % 4)))
    except (InvalidInput, ValueError):
        return None
    # Other values that the keys encrypted are no tokens.
    match content:
        case [purpose, str(channel), str(address), str(topic), None | int() as message_id] if purpose == _TOKEN_PURPOSE:
            return Subscription(channel, address, topic, message_id)
    return None


def unsubscribe_link(subscription: Subscription) -> str:
    """The link, from the setting `links.unsubscribe`. Misconfigured without BACKLINE_FERNET_KEYS."""
    return link_for_token(create_token(subscription, encryptor()))


def link_for_token(token: str) -> str:
    """A token's link."""
    return settings().section(LinkSettings).unsubscribe.replace("{token}", token)
