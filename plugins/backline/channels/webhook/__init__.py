"""The webhook channel: events delivered to HTTP endpoints, signed by Standard Webhooks (standardwebhooks.com)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backline.channels.recipients import WEBHOOK_PATTERN, parse_webhook_recipient
from backline.channels.registry import ChannelDefinition

if TYPE_CHECKING:
    from backline.channels.webhook.channel import WebhookChannel


def _create(config: Any, connections: Any, render: Any) -> WebhookChannel:
    from backline.channels.webhook.channel import WebhookChannel
    from backline.channels.webhook.endpoints import EndpointStore
    from backline.channels.webhook.settings import WebhookSettings
    from backline.encryption import encryptor

    webhooks = config.section(WebhookSettings)
    disable_after, recipients = webhooks.disable_after_seconds, config.alerts.recipients

    def endpoints() -> EndpointStore:
        return EndpointStore(connections.app_dsn(), encryptor, disable_after=disable_after, recipients=recipients)

    return WebhookChannel(webhooks, endpoints, render)


def _retry_schedule(config: Any) -> tuple[tuple[float, ...], float]:
    from backline.channels.webhook.settings import WebhookSettings

    webhooks = config.section(WebhookSettings)
    return webhooks.retry_delays_seconds, webhooks.retry_jitter


DEFINITION = ChannelDefinition(
    create=_create,
    recipient_example="*",
    recipient_help="* for every endpoint that is subscribed to the event, or the id of one: ep_1",
    recipient_pattern=lambda: WEBHOOK_PATTERN,
    short_recipient_pattern=WEBHOOK_PATTERN,
    recipient_problem='not an endpoint; use "*" for all, or an id such as ep_1',
    parse_recipient=parse_webhook_recipient,
    retry_schedule=_retry_schedule,
)
