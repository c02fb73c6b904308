"""The email channel: builds MIME messages and submits them to an SMTP server over persistent, pipelined connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backline.channels.recipients import ADDRESS_PATTERN, SHORT_ADDRESS_PATTERN, parse_address
from backline.channels.registry import ChannelDefinition
from backline.errors import InvalidInput

if TYPE_CHECKING:
    from backline.channels.email.channel import EmailChannel


def _create(config: Any, connections: Any, render: Any) -> EmailChannel:
    from backline.channels.email.channel import EmailChannel
    from backline.channels.email.settings import EmailSettings

    email = config.section(EmailSettings)
    return EmailChannel(email, connections.smtp_server(email.connection), render)


def _parse_recipient(text: str, field: str) -> str:
    parse_address(text, field)
    return text


def _parse_address_key(address: str, field: str) -> str:
    return parse_address(address, field).addr_spec.lower()


def _address_key(recipient: str) -> str:
    """The bare address in lower case, its domain as punycode."""
    key = recipient.rpartition("<")[2].strip(" >").lower()
    if key.isascii():
        return key
    try:
        return _parse_address_key(key, "address")
    except InvalidInput:  # the channel refuses it with the reason
        return key


DEFINITION = ChannelDefinition(
    create=_create,
    recipient_example="ann@example.com",
    recipient_help="an email address, with or without a name: Ann <ann@example.com>",
    recipient_pattern=lambda: ADDRESS_PATTERN,
    short_recipient_pattern=SHORT_ADDRESS_PATTERN,
    recipient_problem="not an email address; use ann@example.com or Ann <ann@example.com>",
    parse_recipient=_parse_recipient,
    address_key=_address_key,
    parse_address_key=_parse_address_key,
)
