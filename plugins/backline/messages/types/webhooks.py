"""Webhook events for other systems."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, JsonValue

from backline.channels.base import WebhookContent
from backline.messages.base import WebhookMessage
from backline.messages.fields import Timestamp
from backline.messages.registry import register

_EVENT_TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_EVENT_ID = re.compile(r"[A-Za-z0-9_-]+")


def check_event_type(text: str) -> str:
    """An event type: words of letters, digits, '_' and '-', separated by full stops."""
    if not _EVENT_TYPE.fullmatch(text):
        raise ValueError('must be words separated by full stops, such as "order.paid"')
    return text


def check_event_id(text: str) -> str:
    """An event id, without a full stop, which the specification reserves."""
    if not _EVENT_ID.fullmatch(text):
        raise ValueError("must consist of letters, digits, '_' and '-'")
    return text


EventType = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(check_event_type)]
EventId = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_event_id)]


@register
class Webhook(WebhookMessage):
    """A webhook event for every subscribed endpoint (`*`), or for one (its id)."""

    type_name: ClassVar[str] = "webhook"
    lanes: ClassVar = {"webhook": "webhook.normal"}
    example: ClassVar = {"event_type": "order.paid", "data": {"order": "1042", "total": "72.80", "currency": "EUR"}}

    event_type: EventType = Field(description="What happened; endpoints subscribe to it.", examples=["order.paid"])
    data: dict[str, JsonValue] = Field(description="The event's data.", examples=[{"order": "1042"}])
    event_id: EventId | None = Field(
        None,
        description="The same for each repetition of the event (`webhook-id`); generated when omitted.",
        examples=["evt_1042"],
    )
    occurred_at: Timestamp | None = Field(
        None, description="When it happened; now when omitted.", examples=["2026-03-01T18:30:00Z"]
    )

    def webhook(self, default_event_id: str, default_occurred_at: datetime) -> WebhookContent:
        """The event, with the default id and time where the payload has none."""
        occurred_at = self.occurred_at or default_occurred_at
        return WebhookContent(self.event_id or default_event_id, self.event_type, occurred_at, self.data)
