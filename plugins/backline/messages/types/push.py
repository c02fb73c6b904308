"""Push notifications."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from backline.channels.base import PushContent
from backline.messages.base import PushMessage
from backline.messages.fields import Line, Paragraph
from backline.messages.registry import register

MAX_TTL_SECONDS = 2_419_200
"""The longest that FCM keeps a message."""
_RESERVED_PREFIXES = ("google.", "gcm.")


def check_data(data: dict[str, str]) -> dict[str, str]:
    """Data for the app: names that the provider does not reserve."""
    for name in data:
        if name in {"from", "message_type", "collapse_key"} or name.startswith(_RESERVED_PREFIXES) or not name.strip():
            raise ValueError(f"{name[:80]!r} is reserved by the provider; use another name")
    return data


@register("push", push="push.normal")
class Push(PushMessage):
    """A notification on one device, or on all devices of a person."""

    example: ClassVar = {
        "title": "Your order is on its way", "body": "Parcel Post brings it on Thursday.", "data": {"order": "1042"},
        "ttl_seconds": 86400, "collapse_key": "order-1042",
    }  # fmt: skip

    title: Annotated[Line, Field(max_length=200)] = Field(description="Its first line.")
    body: Annotated[Paragraph, Field(max_length=3000)] = Field(description="Its text.")
    data: Annotated[dict[str, Annotated[str, Field(max_length=3000)]], AfterValidator(check_data)] | None = Field(
        None,
        max_length=50,
        description="Data for the app on the device: names and texts; at most 4,096 bytes with title and body.",
    )
    ttl_seconds: int | None = Field(
        None,
        ge=0,
        le=MAX_TTL_SECONDS,
        title="TTL",
        description="How long the provider keeps it for a device that is off; four weeks when omitted, 0 for now or never.",
    )
    collapse_key: Annotated[Line, Field(max_length=64, pattern="^[!-~]+$")] | None = Field(
        None, description="A device that was off shows only the last of those with the same key."
    )

    def push(self) -> PushContent:
        """The payload's fields."""
        return PushContent(self.title, self.body, self.data or {}, self.ttl_seconds, self.collapse_key)
