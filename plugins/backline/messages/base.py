"""The base classes of message types: one pydantic model per type, from which everything else about the type is derived.

A type's class sets its payload fields, its secret fields, and how a payload becomes content; `register` names it and its lanes.
The recipient is not part of the payload: in a DAG run's conf or an HTTP body it is the key `to` beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticSerializationError, to_json
from pydantic_core.core_schema import no_info_before_validator_function

from backline.channels.base import EmailContent, PushContent, WebhookContent
from backline.errors import InvalidInput
from backline.messages import recipients
from backline.messages.fields import parse_timestamp
from backline.validation_errors import UNKNOWN_FIELD, Location, field_problems, reject_nul, to_invalid_input

RESERVED_KEYS = frozenset({"to", "request_id", "expires_at", "priority"})
"""Keys beside the payload in a conf or body, so no payload field may have these names."""
_TITLE_WORDS = {"cc": "Cc", "html": "HTML", "ip": "IP", "url": "URL", "zone": "time zone"}


def field_title(name: str, _info: object = None) -> str:
    """A field's title in forms and docs: `order_url` is "Order URL"."""
    title = " ".join(_TITLE_WORDS.get(word, word) for word in name.split("_"))
    return title[0].upper() + title[1:]


class PayloadPart(BaseModel):
    """An object inside a payload."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, defer_build=True, allow_inf_nan=False
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The model's schema, in which a number without a fraction is an integer: 7280.00 is 7280, as in JSON Schema and SQL."""
        schema: CoreSchema = _with_whole_numbers(handler(source))
        return schema


def _to_whole_number(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _with_whole_numbers(schema: Any) -> Any:
    if isinstance(schema, list | tuple):
        return type(schema)(_with_whole_numbers(item) for item in schema)
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "int":
        return no_info_before_validator_function(_to_whole_number, cast("CoreSchema", schema))
    return {key: value if key == "metadata" else _with_whole_numbers(value) for key, value in schema.items()}


class MessageType(PayloadPart):
    """A type of message. Subclass it, set the class variables, add the payload's fields, register it."""

    model_config = ConfigDict(field_title_generator=field_title)

    type_name: ClassVar[str]
    """The type's name in SQL, HTTP and `send_<type>` (not `name`: payloads have fields of that name)."""
    lanes: ClassVar[Mapping[str, str]]
    """Channel to lane: `{"email": "email.normal"}`. With several channels there is one message per channel."""
    channels: ClassVar[tuple[str, ...]] = ()
    """The channels it is sent over: those of `lanes`."""
    template_name: ClassVar[str | None] = None
    """The template it is rendered from; None when it has none, or the payload names it."""
    topic_name: ClassVar[str | None] = None
    """The topic that recipients can opt out of, from the setting `preferences.topics`. None: they cannot, or the payload has a
    field `topic`."""
    secret_fields: ClassVar[frozenset[str]] = frozenset()
    """Payload fields that are encrypted at rest and erased once the message is final."""
    secret_references: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Secret field to the statements of include/sql/identity.sql that a `{"$ref": ...}` in it may name."""
    expiry_field: ClassVar[str | None] = None
    """The payload field with the time at which the message expires."""
    lifetime: ClassVar[timedelta | None] = None
    """The message expires this long after it was accepted; None means never."""
    max_attempts: ClassVar[int | None] = None
    """Maximum attempts, the first one included; None means the lane's setting."""
    max_payload_bytes: ClassVar[int | None] = None
    """Bytes of a payload as PostgreSQL writes it, above which SQL refuses it: no more than the channel accepts in every case."""
    example: ClassVar[Mapping[str, object]] = {}
    """A payload to show in forms and docs, with references for secret fields; `sample` has made-up values instead. A field's own
    `examples` are for what it lacks."""
    version: ClassVar[int] = 1
    """The version of the payload's fields. Raise it with each incompatible change, and let `upgrade` convert older payloads."""

    @classmethod
    def declare(cls, name: str, lanes: Mapping[str, str]) -> None:
        """Set the type's name and lanes: `registry.register` calls it."""
        cls.type_name, cls.lanes, cls.channels = name, lanes, tuple(lanes)

    @classmethod
    def lane_for(cls, channel: str) -> str:
        """The lane for one of its channels; InvalidInput if it does not use that channel."""
        try:
            return cls.lanes[channel]
        except KeyError:
            raise InvalidInput(
                "channel", f"{cls.type_name} is not sent over {channel!r}; its channels: {', '.join(cls.lanes)}"
            ) from None

    @classmethod
    def parse(cls, payload: Mapping[str, object]) -> Self:
        """Validate a payload. InvalidInput names the first invalid field and lists all of them.

        The payload is validated as JSON, so that SQL, HTTP and a DAG run's conf give the same result: a list is an array, and
        text is never converted to a number.
        """
        if not isinstance(payload, Mapping):
            raise InvalidInput("payload", f"must be an object with the fields {', '.join(cls.model_fields)}")
        try:
            text = to_json(dict(payload), inf_nan_mode="constants")
        except (PydanticSerializationError, ValueError) as exc:
            raise InvalidInput("payload", f"cannot be serialized as JSON: {exc}") from None
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
    def upgrade(cls, payload: Mapping[str, object], from_version: int) -> Mapping[str, object]:  # noqa: ARG003
        """Convert a stored payload of an older version; secret fields hold Fernet text or references.

        Messages that were enqueued before a change are upgraded when they are sent or replayed.
        """
        return payload

    @classmethod
    def to_current(cls, payload: Mapping[str, object], version: int) -> Mapping[str, object]:
        """A stored payload of this or an older version, as one of the current version."""
        return cls.upgrade(payload, version) if version < cls.version else payload

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
    def expiry(cls, payload: Mapping[str, object], accepted_at: datetime) -> datetime | None:
        """When a message with this valid payload, accepted at that time, expires; None for never."""
        own = payload.get(cls.expiry_field) if cls.expiry_field else None
        expiries = [] if own is None else [parse_timestamp(own)]
        if cls.lifetime is not None:
            expiries.append(accepted_at + cls.lifetime)
        return min(expiries, default=None)

    @classmethod
    def topic_of(cls, payload: Mapping[str, object]) -> str | None:
        """The topic of a message, from the type or its payload's `topic`; None if recipients cannot opt out of it."""
        if cls.topic_name is not None:
            return cls.topic_name
        topic = payload.get("topic")
        return topic if isinstance(topic, str) else None

    @classmethod
    def check_recipient(cls, to: object) -> str:
        """The recipient in the outbox's format, validated by channel; InvalidInput for `to` or `to.<channel>`."""
        return recipients.serialize(cls.channels, recipients.by_channel(cls.type_name, cls.channels, to))


class EmailMessage(MessageType):
    """A type that is sent by email."""

    @property
    def own_unsubscribe_url(self) -> str | None:
        """The app's own unsubscribe page, if the payload names one."""
        return None

    def with_unsubscribe_url(self, url: str) -> Self:  # noqa: ARG002 - for types that show it
        """The message with this unsubscribe link, if its content shows one."""
        return self

    def email(self) -> EmailContent:
        """The content of the email; InvalidInput when it cannot be created."""
        raise NotImplementedError(f"{type(self).__name__} must define email()")


class SmsMessage(MessageType):
    """A type that is sent by SMS."""

    def sms(self) -> str:
        """The text of the SMS; InvalidInput when it cannot be created."""
        raise NotImplementedError(f"{type(self).__name__} must define sms()")


class PushMessage(MessageType):
    """A type that is sent as a push notification."""

    def push(self) -> PushContent:
        """The content of the notification; InvalidInput when it cannot be created."""
        raise NotImplementedError(f"{type(self).__name__} must define push()")


class WebhookMessage(MessageType):
    """A type that is sent as a webhook event."""

    def webhook(self, default_event_id: str, default_occurred_at: datetime) -> WebhookContent:
        """The event, with this id and time unless it has its own; InvalidInput when it cannot be created."""
        raise NotImplementedError(f"{type(self).__name__} must define webhook()")
