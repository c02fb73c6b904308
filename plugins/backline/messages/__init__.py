"""Message types: what can be said to a recipient, checked by one pydantic model each."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from backline.channels.base import Message
from backline.channels.email.content import EmailContent
from backline.channels.webhook.content import WebhookContent
from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.base import EmailMessage, MessageType
from backline.messages.conf import Options, split_conf
from backline.messages.rules import spec

if TYPE_CHECKING:
    from backline.messages.types.webhooks import Webhook

__all__ = ["EmailMessage", "MessageType", "Options", "registry", "render_email", "render_webhook", "spec", "split_conf"]


def render_email(message: Message) -> EmailContent:
    """What a message says as an email: its payload checked and its template rendered.

    InvalidInput names the field: a wrong payload, a template's missing variable, a missing file.
    """
    kind = registry.get(message.type)
    if "email" not in kind.channels:
        raise InvalidInput("type", f"{message.type} does not go by email; its channels: {', '.join(kind.channels)}")
    # The registry saw to it that the class is one; issubclass costs 10 µs here, as pydantic models are ABCs.
    return cast("EmailMessage", kind.parse(message.payload)).email()


def render_webhook(message: Message) -> WebhookContent:
    """What a message says as an event; InvalidInput names the field that is wrong."""
    kind = registry.get(message.type)
    if "webhook" not in kind.channels:
        raise InvalidInput("type", f"{message.type} does not go by webhook; its channels: {', '.join(kind.channels)}")
    created = round(message.created_at.timestamp() * 1_000_000)
    return cast("Webhook", kind.parse(message.payload)).webhook(f"evt_{message.id}_{created:x}", message.created_at)
