"""The webhook channel: a message becomes one signed HTTP request to its endpoint."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC

from pydantic_core import to_json

from backline.channels.base import Message
from backline.channels.webhook import recipients
from backline.channels.webhook.content import WebhookContent
from backline.channels.webhook.endpoints import EndpointStore
from backline.channels.webhook.session import PreparedWebhook, WebhookSession
from backline.channels.webhook.ssrf_guard import AddressGuard
from backline.webhooks.settings import WebhookSettings


class WebhookChannel:
    """Channel of `PreparedWebhook`s; `render` turns a message into its event, `directory` makes what finds endpoints."""

    name = "webhook"
    connections = 1
    """One session holds the connections to all endpoints."""

    def __init__(
        self,
        settings: WebhookSettings,
        open_endpoints: Callable[[], EndpointStore],
        render: Callable[[Message], WebhookContent],
    ) -> None:
        self.messages_per_session = settings.concurrency
        self._timeout = settings.timeout_seconds
        self._guard = AddressGuard(settings.allowed_addresses)
        self._open_endpoints = open_endpoints
        self._render = render

    def prepare(self, message: Message) -> PreparedWebhook:
        """The request's body; raises InvalidInput, naming the field, when the recipient or the payload is wrong."""
        endpoint = recipients.parse_webhook_recipient(message.recipient, "to")
        event = self._render(message)
        occurred_at = event.occurred_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = to_json({"type": event.event_type, "timestamp": occurred_at, "data": event.data})
        timeout = self._timeout if message.attempt == 1 else self._timeout * 2
        return PreparedWebhook(endpoint, event.event_id, body, timeout)

    def session(self) -> WebhookSession:
        """A new session, not yet connected."""
        return WebhookSession(self._open_endpoints(), self._guard)
