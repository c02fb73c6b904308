"""The push channel: notifications to users' devices, over FCM's HTTP v1 API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backline.channels.recipients import PUSH_PATTERN, parse_push_recipient
from backline.channels.registry import ChannelDefinition

if TYPE_CHECKING:
    from backline.channels.push.channel import PushChannel


def _create(config: Any, connections: Any, render: Any) -> PushChannel:
    from backline.channels.push.channel import DeviceStore, PushChannel
    from backline.channels.push.settings import PushSettings

    push = config.section(PushSettings)
    return PushChannel(push, connections.http_gateway(push.connection), render, DeviceStore(connections.app_dsn))


DEFINITION = ChannelDefinition(
    create=_create,
    recipient_example="user:17",
    recipient_help="a device's token, or user:17 for all devices of a person",
    recipient_pattern=lambda: PUSH_PATTERN,
    short_recipient_pattern="user:[!-~]+",
    recipient_problem="not a device's token; use the device's own token, or user:17 for all devices of a person",
    recipient_max_length=4096,
    parse_recipient=parse_push_recipient,
)
