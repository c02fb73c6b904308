"""Push notifications."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from backline.channels.content import PushContent
from backline.messages.base import PushMessage
from backline.messages.fields import Line, Paragraph
from backline.messages.registry import register

MAX_TTL_SECONDS = 2_419_200
"""Seconds: the longest that FCM keeps a message."""
_RESERVED_PREFIXES = ("google.", "gcm.")


def check_data(data: dict[str, str]) -> dict[str, str]:
    """What the app is told: names that the provider does not keep for itself."""
    for name in data:
        if name in {"from", "message_type", "collapse_key"} or name.startswith(_RESERVED_PREFIXES) or not name.strip():
            raise ValueError(f"{name[:80]!r} is a name of the provider's own; give it another")
    return data


@register
class Push(PushMessage):
    """A notification on one device, or on all devices of a person."""

    type_name: ClassVar[str] = "push"
    lanes: ClassVar = {"push": "push.normal"}
    example: ClassVar = {
        "title": "Your order is on its way",
        "body": "Parcel Post brings it on Thursday.",
        "data": {"order": "1042"},
        "ttl_seconds": 86400,
        "collapse_key": "order-1042",
    }

    title: Annotated[Line, Field(max_length=200)] = Field(title="Title", description="Its first line.")
    body: Annotated[Paragraph, Field(max_length=3000)] = Field(title="Body", description="What it says.")
    data: Annotated[dict[str, Annotated[str, Field(max_length=3000)]], AfterValidator(check_data)] | None = Field(
        None,
        max_length=50,
        title="Data",
        description="What the app on the device is told besides: names and texts; 4,096 bytes with title and body.",
        examples=[{"order": "1042"}],
    )
    ttl_seconds: int | None = Field(
        None,
        ge=0,
        le=MAX_TTL_SECONDS,
        title="TTL",
        description="How long the provider keeps it for a device that is off; four weeks when left out, 0 for now or never.",
    )
    collapse_key: Annotated[Line, Field(max_length=64, pattern="^[!-~]+$")] | None = Field(
        None,
        title="Collapse key",
        description="A device that was off shows only the last of those with the same key.",
        examples=["order-1042"],
    )

    def push(self) -> PushContent:
        """The payload as it is."""
        return PushContent(self.title, self.body, self.data or {}, self.ttl_seconds, self.collapse_key)
