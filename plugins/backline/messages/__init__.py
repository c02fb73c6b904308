"""Message types: what can be said to a recipient, checked by one pydantic model each."""

from __future__ import annotations

from typing import cast

from backline.channels.base import Message
from backline.channels.email.content import EmailContent
from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.base import EmailMessage, MessageType
from backline.messages.conf import Options, split_conf
from backline.messages.rules import spec

__all__ = ["EmailMessage", "MessageType", "Options", "registry", "render_email", "spec", "split_conf"]


def render_email(message: Message) -> EmailContent:
    """What a message says as an email: its payload checked and its template rendered.

    InvalidInput names the field: a wrong payload, a template's missing variable, a missing file.
    """
    kind = registry.get(message.type)
    if "email" not in kind.channels:
        raise InvalidInput("type", f"{message.type} does not go by email; its channels: {', '.join(kind.channels)}")
    # The registry saw to it that the class is one; issubclass costs 10 µs here, as pydantic models are ABCs.
    said = cast("EmailMessage", kind.parse(message.payload))
    if (topic := kind.topic_of(message.payload)) is None:
        return said.email()
    from backline.messages.leaving import with_way_out
    from backline.preferences.recipients import address_key
    from backline.preferences.unsubscribe import Subscription, link

    leaves = Subscription("email", address_key("email", message.recipient), topic, message.id)
    return with_way_out(said, lambda: link(leaves))
