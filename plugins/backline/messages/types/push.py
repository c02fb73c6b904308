"""Push notifications."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from backline.channels.base import PushContent
from backline.channels.push.limits import MAX_PAYLOAD_BYTES, check_size
from backline.errors import InvalidInput
from backline.messages.base import PushMessage
from backline.messages.fields import SQL_KEYS, Line, Paragraph, in_sql, matching
from backline.messages.registry import register
from backline.validation_errors import field_error

MAX_TTL_SECONDS = 2_419_200
"""The longest that FCM keeps a message."""
_RESERVED_PREFIXES = ("google.", "gcm.")


def check_data(data: dict[str, str]) -> dict[str, str]:
    """Data for the app: names that the provider does not reserve."""
    for name in data:
        if name in {"from", "message_type", "collapse_key"} or name.startswith(_RESERVED_PREFIXES) or not name.strip():
            raise ValueError(f"{name[:80]!r} is reserved by the provider; use another name")
    return data


check_collapse_key = matching("[!-~]+", "must be ASCII without blanks")
CollapseKey = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_collapse_key), in_sql("^[!-~]+$")]
Data = Annotated[
    dict[str, Annotated[str, Field(max_length=3000)]],
    Field(max_length=50),
    AfterValidator(check_data),
    in_sql(r"^(?!from$|message_type$|collapse_key$|google[.]|gcm[.])[!-~]", SQL_KEYS),
]


@register("push", push="push.normal")
class Push(PushMessage):
    """A notification on one device, or on all devices of a person."""

    max_payload_bytes: ClassVar[int | None] = MAX_PAYLOAD_BYTES - 50
    example: ClassVar = {
        "title": "Your order is on its way", "body": "Parcel Post brings it on Thursday.", "data": {"order": "1042"},
        "ttl_seconds": 86400, "collapse_key": "order-1042",
    }  # fmt: skip

    title: Annotated[Line, Field(max_length=200)] = Field(description="Its first line.")
    body: Annotated[Paragraph, Field(max_length=3000)] = Field(description="Its text.")
    data: Data | None = Field(
        None, description="Data for the app on the device: names and texts; at most 4,096 bytes with title and body."
    )
    ttl_seconds: int | None = Field(
        None,
        ge=0,
        le=MAX_TTL_SECONDS,
        title="TTL",
        description="How long the provider keeps it for a device that is off; four weeks when omitted, 0 for now or never.",
    )
    collapse_key: CollapseKey | None = Field(
        None, description="A device that was off shows only the last of those with the same key."
    )

    @model_validator(mode="after")
    def _is_small_enough(self) -> Self:
        try:
            check_size(self.push())
        except InvalidInput as exc:
            raise field_error(exc.field, exc.problem) from None
        return self

    def push(self) -> PushContent:
        """The payload's fields."""
        return PushContent(self.title, self.body, self.data or {}, self.ttl_seconds, self.collapse_key)
