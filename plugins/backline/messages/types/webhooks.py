"""Webhook events for other systems."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from backline.channels.base import WebhookContent
from backline.messages.base import WebhookMessage
from backline.messages.fields import JsonObject, Timestamp, in_sql, matching
from backline.messages.registry import register

_WORD = "[A-Za-z0-9_-]+"
_EVENT_TYPE = f"{_WORD}([.]{_WORD})*"
check_event_type = matching(_EVENT_TYPE, 'must be words separated by full stops, such as "order.paid"')
# Without a full stop, which the specification reserves.
check_event_id = matching(_WORD, "must consist of letters, digits, '_' and '-'")
EventType = Annotated[
    str, Field(min_length=1, max_length=128), AfterValidator(check_event_type), in_sql(f"^{_EVENT_TYPE}$")
]
EventId = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_event_id), in_sql(f"^{_WORD}$")]


@register("webhook", webhook="webhook.normal")
class Webhook(WebhookMessage):
    """A webhook event for every subscribed endpoint (`*`), or for one (its id)."""

    example: ClassVar = {"event_type": "order.paid", "data": {"order": "1042", "total": "72.80", "currency": "EUR"}}

    event_type: EventType = Field(description="What happened; endpoints subscribe to it.")
    data: JsonObject = Field(description="The event's data.")
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
