"""Events for other people's systems."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, JsonValue

from backline.channels.content import WebhookContent
from backline.messages.base import WebhookMessage
from backline.messages.fields import Timestamp
from backline.messages.registry import register

_EVENT_TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_EVENT_ID = re.compile(r"[A-Za-z0-9_-]+")


def check_event_type(text: str) -> str:
    """An event's type: words of letters, digits, '_' and '-', with full stops between."""
    if not _EVENT_TYPE.fullmatch(text):
        raise ValueError('must be words with full stops between, such as "order.paid"')
    return text


def check_event_id(text: str) -> str:
    """An event's id: the specification keeps the full stop for itself."""
    if not _EVENT_ID.fullmatch(text):
        raise ValueError("must consist of letters, digits, '_' and '-'")
    return text


EventType = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(check_event_type)]
EventId = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_event_id)]


@register
class Webhook(WebhookMessage):
    """An event for every webhook endpoint that is subscribed to it (`*`), or for one (its id)."""

    type_name: ClassVar[str] = "webhook"
    lanes: ClassVar = {"webhook": "webhook.normal"}
    example: ClassVar = {"event_type": "order.paid", "data": {"order": "1042", "total": "72.80", "currency": "EUR"}}

    event_type: EventType = Field(
        title="Event type", description="What happened; endpoints subscribe to it.", examples=["order.paid"]
    )
    data: dict[str, JsonValue] = Field(
        title="Data", description="What the receiver needs to know of it.", examples=[{"order": "1042"}]
    )
    event_id: EventId | None = Field(
        None,
        title="Event id",
        description="The receiver knows a repetition by it (`webhook-id`); made when left out.",
        examples=["evt_1042"],
    )
    occurred_at: Timestamp | None = Field(
        None, title="Occurred at", description="When; now when left out.", examples=["2026-03-01T18:30:00Z"]
    )

    def webhook(self, sent_as: str, sent_at: datetime) -> WebhookContent:
        """The event; id and time are those given where the payload has none."""
        return WebhookContent(self.event_id or sent_as, self.event_type, self.occurred_at or sent_at, self.data)
