"""Message types: one pydantic model per type, and rendering of a payload for each channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from backline.channels.base import EmailContent, Message, PushContent, WebhookContent
from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.base import EmailMessage, MessageType, PushMessage, SmsMessage, WebhookMessage


def render_email(message: Message) -> EmailContent:
    """A message as an email; InvalidInput names the field: invalid payload, missing variable of a template, missing file."""
    # The registry checked the class; issubclass costs 10 µs here, as pydantic models are ABCs.
    parsed = cast("EmailMessage", _parse_message(message, "email"))
    if (topic := parsed.topic_of(message.payload)) is None:
        return parsed.email()
    from backline.channels.registry import definition
    from backline.preferences.unsubscribe import Subscription, unsubscribe_link

    subscription = Subscription("email", definition("email").address_key(message.recipient), topic, message.id)
    return with_unsubscribe(parsed, lambda: unsubscribe_link(subscription))


def with_unsubscribe(message: EmailMessage, default_url: Callable[[], str]) -> EmailContent:
    """An email with List-Unsubscribe headers (RFC 2369, RFC 8058: https), by default `default_url`; own headers are kept."""
    url = message.own_unsubscribe_url or default_url()
    content = message.with_unsubscribe_url(url).email()
    if "list-unsubscribe" in {name.lower() for name in content.headers}:
        return content
    headers = {"List-Unsubscribe": f"<{url}>"}
    if url.startswith("https://"):
        headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    return content._replace(headers={**content.headers, **headers})


def render_sms(message: Message) -> str:
    """A message as the text of an SMS; InvalidInput as for an email."""
    return cast("SmsMessage", _parse_message(message, "sms")).sms()


def render_push(message: Message) -> PushContent:
    """A message as a push notification; InvalidInput as for an email."""
    return cast("PushMessage", _parse_message(message, "push")).push()


def render_webhook(message: Message) -> WebhookContent:
    """A message as a webhook event; InvalidInput as for an email."""
    created = round(message.created_at.timestamp() * 1_000_000)
    parsed = cast("WebhookMessage", _parse_message(message, "webhook"))
    return parsed.webhook(f"evt_{message.id}_{created:x}", message.created_at)


_OWN_RENDERERS = {"email": render_email, "webhook": render_webhook}


def renderer(channel: str) -> Callable[[Message], Any]:
    """Renders a message's content for a channel: the type's method of the channel's name, `sms()`; InvalidInput as for an email."""
    return _OWN_RENDERERS.get(channel) or (lambda message: getattr(_parse_message(message, channel), channel)())


def _parse_message(message: Message, channel: str) -> MessageType:
    kind = registry.get(message.type)
    if channel not in kind.channels:
        raise InvalidInput(
            "type", f"{message.type} is not sent over {channel}; its channels: {', '.join(kind.channels)}"
        )
    return kind.parse(message.payload)
