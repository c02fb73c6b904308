"""What a message type is: one pydantic model, from which everything else about the type is derived.

A type's class says where it goes (`lanes`), what it carries (its fields), which fields are secret,
and how it becomes content. The recipient is not part of the payload: it stands beside it, and in a
DAG run's conf or an HTTP body it is the key `to`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from backline.channels.content import EmailContent, PushContent, WebhookContent
from backline.errors import InvalidInput
from backline.messages import recipients
from backline.messages.fields import parse_timestamp
from backline.validation_errors import UNKNOWN_FIELD, Location, field_problems, reject_nul, to_invalid_input

RESERVED_KEYS = frozenset({"to", "request_id", "expires_at", "priority"})
"""Keys that stand beside the payload in a conf or body, so no payload field may have these names."""


class MessageType(BaseModel):
    """A kind of message. Subclass it, set the class variables, add the payload's fields, register it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, defer_build=True)

    type_name: ClassVar[str]
    """The type's name in SQL, HTTP and `send_<type>` (not `name`: payloads have fields of that name)."""
    lanes: ClassVar[Mapping[str, str]]
    """Channel to lane: `{"email": "email.normal"}`. Several channels make one row each."""
    channels: ClassVar[tuple[str, ...]] = ()
    """The channels that it goes out by: those of `lanes`."""
    template_name: ClassVar[str | None] = None
    """The template it is rendered from, or None when it has none, or the payload names it."""
    topic_name: ClassVar[str | None] = None
    """What its messages are about, of the settings' `preferences.topics`: people can leave it. None: nobody can, or the payload
    has a field `topic`."""
    secret_fields: ClassVar[frozenset[str]] = frozenset()
    """Payload fields that are encrypted at rest and erased once the message is final."""
    secret_references: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Secret field to the statements of include/sql/identity.sql that a `{"$ref": ...}` in it may name."""
    expiry_field: ClassVar[str | None] = None
    """The payload field that says until when the message is of use; it is not sent after that."""
    lifetime: ClassVar[timedelta | None] = None
    """How long after it was taken in it is of use, whatever else it says; None means for ever."""
    max_attempts: ClassVar[int | None] = None
    """Tries at most, the first one included; None means the lane's."""
    example: ClassVar[Mapping[str, Any]] = {}
    """A payload to show, with references for secret fields; `sample` has made-up values instead."""
    version: ClassVar[int] = 1
    """The version of the payload's fields. Raise it with each incompatible change, and let `upgrade` convert older payloads."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Keep `channels` in step with `lanes`."""
        super().__pydantic_init_subclass__(**kwargs)
        cls.channels = tuple(getattr(cls, "lanes", ()))

    @classmethod
    def lane_for(cls, channel: str) -> str:
        """The lane for one of its channels; InvalidInput if it does not use that channel."""
        try:
            return cls.lanes[channel]
        except KeyError:
            raise InvalidInput(
                "channel", f"{cls.type_name} does not go by {channel!r}; its channels: {', '.join(cls.lanes)}"
            ) from None

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> Self:
        """Check a payload. InvalidInput names the first wrong field and tells of every one.

        Judged as JSON, so that SQL, HTTP and a DAG run's conf get the same answer: a list is an
        array, text is never taken for a number.
        """
        if not isinstance(payload, Mapping):
            raise InvalidInput("payload", f"must be an object with the fields {', '.join(cls.model_fields)}")
        try:
            text = to_json(dict(payload), inf_nan_mode="strings")
        except (PydanticSerializationError, ValueError) as exc:
            raise InvalidInput("payload", f"cannot be written as JSON: {exc}") from None
        reject_nul(payload, text)
        try:
            return cls.model_validate_json(text)
        except ValidationError as exc:
            problems = field_problems(exc, unknown_field=cls._unknown_field, secret=cls.secret_fields)
            raise to_invalid_input(problems) from None

    @classmethod
    def _unknown_field(cls, location: Location) -> str:
        if len(location) > 1:
            return UNKNOWN_FIELD
        return f"is not a field of {cls.type_name}; known fields: {', '.join(cls.model_fields)}"

    @classmethod
    def upgrade(cls, payload: Mapping[str, Any], from_version: int) -> Mapping[str, Any]:  # noqa: ARG003
        """Convert a stored payload of an older version; secret fields hold Fernet text or references.

        Messages that were enqueued before a change are upgraded when they are sent or replayed.
        """
        return payload

    @classmethod
    def sample(cls) -> dict[str, Any]:
        """The example with a made-up value for each secret: for previews, tests and the demo."""
        return {**cls.example, **{name: cls.fake_secret(name) for name in cls.secret_fields if name in cls.example}}

    @classmethod
    def fake_secret(cls, name: str) -> str:
        """A made-up value for a secret field: the first of the field's `examples`."""
        examples = cls.model_fields[name].examples
        if not examples:
            raise ValueError(f"{cls.type_name}: secret field {name!r} needs examples=[...] with a made-up value")
        return str(examples[0])

    @classmethod
    def expiry(cls, payload: Mapping[str, Any], accepted_at: datetime) -> datetime | None:
        """Until when a checked payload that was taken in at that time is of use, or None for ever."""
        said = payload.get(cls.expiry_field) if cls.expiry_field else None
        ends = [] if said is None else [parse_timestamp(said)]
        if cls.lifetime is not None:
            ends.append(accepted_at + cls.lifetime)
        return min(ends, default=None)

    @classmethod
    def topic_of(cls, payload: Mapping[str, Any]) -> str | None:
        """The topic of a message, by the type or its payload's `topic`; None if it cannot be left."""
        if cls.topic_name is not None:
            return cls.topic_name
        said = payload.get("topic")
        return said if isinstance(said, str) else None

    @classmethod
    def check_recipient(cls, to: object) -> str:
        """The recipient as the outbox takes it, checked by channel; InvalidInput for `to`, or `to.<channel>`."""
        return recipients.serialize(cls.channels, recipients.by_channel(cls.type_name, cls.channels, to))


class EmailMessage(MessageType):
    """A type that goes out by email."""

    @property
    def own_unsubscribe_url(self) -> str | None:
        """Where its topic is left if not by our own link, or None."""
        return None

    def with_unsubscribe_url(self, url: str) -> Self:  # noqa: ARG002 - for those that show it
        """The same message, with the link that leaves its topic where it shows one."""
        return self

    def email(self) -> EmailContent:
        """What this message says as an email; InvalidInput when it cannot be said."""
        raise NotImplementedError(f"{type(self).__name__} must define email()")


class SmsMessage(MessageType):
    """A type that goes out by SMS."""

    def sms(self) -> str:
        """What this message says as a text message; InvalidInput when it cannot be said."""
        raise NotImplementedError(f"{type(self).__name__} must define sms()")


class PushMessage(MessageType):
    """A type that goes out as a push notification."""

    def push(self) -> PushContent:
        """What this message says on a device; InvalidInput when it cannot be said."""
        raise NotImplementedError(f"{type(self).__name__} must define push()")


class WebhookMessage(MessageType):
    """A type that goes out as an event."""

    def webhook(self, default_event_id: str, default_occurred_at: datetime) -> WebhookContent:
        """What happened, under this id and time where it has none of its own; InvalidInput when it cannot be said."""
        raise NotImplementedError(f"{type(self).__name__} must define webhook()")


CHANNEL_CLASSES: Mapping[str, type[MessageType]] = {
    "email": EmailMessage,
    "sms": SmsMessage,
    "push": PushMessage,
    "webhook": WebhookMessage,
}
"""Which class a type must be of to go out by a channel."""
