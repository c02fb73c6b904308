"""The SMS channel: counts a text's segments, and posts it to a gateway that implements Twilio's message API."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from backline.channels.recipients import parse_phone_number, phone_number_pattern
from backline.channels.registry import ChannelDefinition
from backline.errors import InvalidInput

if TYPE_CHECKING:
    from backline.channels.sms.channel import SmsChannel


def _create(config: Any, connections: Any, render: Any) -> SmsChannel:
    from backline.channels.sms.channel import SmsChannel
    from backline.channels.sms.settings import SmsSettings

    sms = config.section(SmsSettings)
    return SmsChannel(sms, connections.http_gateway(sms.connection), render)


def _address_key(recipient: str) -> str:
    return re.sub(r"[^+0-9]", "", recipient)


def _parse_address_key(address: str, field: str) -> str:
    if not re.fullmatch(r"\+[1-9][0-9]{6,14}", key := _address_key(address)):
        raise InvalidInput(field, "must be a number with its country code, such as +491701234567 (E.164)")
    return key


def _check_content(content: Any) -> None:
    from backline.channels.sms.limits import check_length
    from backline.channels.sms.settings import SmsSettings
    from backline.settings import settings

    check_length(content, settings().section(SmsSettings).max_segments)


DEFINITION = ChannelDefinition(
    create=_create,
    recipient_example="+4915112345678",
    recipient_help="a phone number with its country: +49 1511 2345678",
    recipient_pattern=phone_number_pattern,
    short_recipient_pattern="[+]49[1-9][0-9]{9,10}|[+]1[2-9][0-9]{9}",
    recipient_problem="not a phone number in E.164; use +4915112345678, without blanks",
    parse_recipient=parse_phone_number,
    check_content=_check_content,
    address_key=_address_key,
    parse_address_key=_parse_address_key,
)
