"""What the HTTP API takes and gives, for pydantic to read and for the OpenAPI document."""

from __future__ import annotations

from datetime import datetime, time
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema

MAX_ID = 2**62
"""Far beyond any, and far enough below the database's highest to count on from."""


def _parse_timestamp(value: object) -> object:
    """Pydantic alone would take a number in quotes for seconds since 1970."""
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise ValueError('must be a time with its zone, such as "2030-01-31T12:00:00Z" (RFC 3339)') from None


Timestamp = Annotated[AwareDatetime, BeforeValidator(_parse_timestamp)]
State = Literal["scheduled", "pending", "leased", "sent", "suppressed", "cancelled", "expired", "dead"]
RequestId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Recipient = Annotated[
    JsonValue,  # judged with its type's channels in hand
    WithJsonSchema({
        "description": "An address; for a type of several channels an object with one a channel.",
        "anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}],
        "examples": ["Ann <ann@example.com>"],
    }),
]  # fmt: skip
Payload = Annotated[
    dict[str, Any],  # not JsonValue: it is JSON already, and looking at each value anew doubles the time
    Field(description="The type's fields (docs/messages.md); secret ones in the clear, sealed before they are stored.",
          examples=[{"name": "Ann"}]),
]  # fmt: skip


class RequestBody(BaseModel):
    """What callers send."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class NewMessage(RequestBody):
    """One message to send."""

    type: str = Field(description="A message type.", examples=["welcome"], max_length=100)
    to: Recipient
    payload: Payload = Field(default_factory=dict)
    due_at: Timestamp | None = Field(None, description="Not sent before this time.")
    expires_at: Timestamp | None = Field(None, description="Not sent after this time.")
    priority: int | None = Field(None, ge=1, le=10, description="1 (last) to 10 (first); the lane's if left out.")
    lane: str | None = Field(None, description="Another lane of the type's channel, such as email.bulk.")
    request_id: RequestId | None = Field(None, description="This request's X-Request-ID if left out.")


class Replay(RequestBody):
    """How a message that is sent again differs from the first one; what is left out stays."""

    to: str | None = Field(None, description="Another recipient.")
    payload: Payload | None = Field(None, description="Another payload, whole; secret fields have to be given anew.")


Channel = Literal["email", "sms", "push", "webhook"]
ShortText = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]
TimeOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", examples=["21:00"])]


class NewSuppression(RequestBody):
    """An address that is to get nothing any more."""

    channel: Channel
    address: ShortText
    until: Timestamp | None = Field(None, description="For good if left out.")
    detail: ShortText | None = Field(None, description="Why, for those who look.")


class PreferenceUpdate(RequestBody):
    """How one recipient wants to be written to, whole: what is left out is as the settings say."""

    channel: Channel
    address: ShortText
    zone: str | None = Field(None, description="IANA time zone, as in Europe/Berlin.", max_length=60)
    quiet_from: TimeOfDay | None = Field(None, description="Quiet hours begin; the same as quiet_until: none.")
    quiet_until: TimeOfDay | None = Field(None, description="Quiet hours end.")
    per_day: int | None = Field(None, ge=0, le=1000, description="Messages a day at most; 0: no limit.")
    opted_out: list[str] | None = Field(
        None,
        max_length=100,
        description='Topics that they have left, all of them; "*" is everything. Left out: as it is.',
    )


class Reference(BaseModel):
    """A message, or a group for a type of several channels, and where to ask for it."""

    id: int
    url: str


class Accepted(BaseModel):
    """What was taken in, in the order given."""

    messages: list[Reference]
    request_id: str


class MessageSummary(BaseModel):
    """One message of a list."""

    id: int
    url: str
    type: str
    channel: str
    lane: str
    state: State
    recipient: str
    request_id: str | None
    group_id: int | None
    created_at: AwareDatetime
    finalized_at: AwareDatetime | None
    error_class: str | None
    error: str | None


class MessageList(BaseModel):
    """Part of a list, newest first."""

    messages: list[MessageSummary]
    next: str | None = Field(description="The next part's URL; null at the end. A part may have fewer than `limit`.")


class Group(BaseModel):
    """The messages of one enqueue of a type of several channels."""

    id: int
    messages: list[MessageSummary]


class Attempt(BaseModel):
    """One try."""

    number: int
    duration_ms: float
    outcome: str
    error_class: str | None
    code: str | None = Field(description='The far side\'s own code: "250 2.0.0".')
    response: str | None = Field(description="What it said, cut to 4 kB; null for types with secrets.")
    dag_run: str | None = Field(description="The run that made the try: DAG id, slash, run id.")
    log: str | None = Field(description="Where Airflow's UI shows its log.")


class TimelineEvent(BaseModel):
    """One line of a message's timeline."""

    at: AwareDatetime | None
    event: str
    text: str
    attempt: Attempt | None = None


class Message(BaseModel):
    """One message with its story."""

    id: int
    type: str
    channel: str
    lane: str
    priority: int
    state: State
    recipient: str
    payload: dict[str, JsonValue] = Field(description='Secret fields are "(secret)", and gone once it is final.')
    why: str = Field(description="Why it was or was not sent, in one sentence.")
    timeline: list[TimelineEvent]
    due_at: AwareDatetime
    expires_at: AwareDatetime | None
    attempt: int = Field(description="Tries that ended.")
    max_attempts: int
    request_id: str | None
    group_id: int | None
    replay_of: int | None
    created_at: AwareDatetime
    finalized_at: AwareDatetime | None
    error_class: str | None
    error: str | None
    provider_id: str | None


class Suppression(BaseModel):
    """An address that gets nothing."""

    id: int
    channel: str
    address: str
    reason: Literal["hard_bounce", "complaint", "unsubscribed", "manual"]
    source: str = Field(description="Who told: a provider, a user.")
    detail: str | None
    message_id: int | None = Field(description="The message by which it came to light.")
    since: AwareDatetime
    until: AwareDatetime | None = Field(description="Null: for good.")


class SuppressionList(BaseModel):
    """Part of a list, newest first."""

    suppressions: list[Suppression]
    next: str | None = Field(description="The next part's URL; null at the end.")


class OptOut(BaseModel):
    """A topic that a recipient has left."""

    topic: str = Field(description='"*" is everything that can be left.')
    source: str
    since: AwareDatetime


class Preferences(BaseModel):
    """All that is known of one recipient; null is as the settings say."""

    channel: str
    address: str
    zone: str | None
    quiet_from: time | None
    quiet_until: time | None
    per_day: int | None
    opted_out: list[OptOut]
    suppression: Suppression | None


class AuditEntry(BaseModel):
    """One row of the audit trail."""

    id: int
    at: AwareDatetime
    actor: str
    action: str
    target: str
    before: dict[str, JsonValue] | None
    after: dict[str, JsonValue] | None
    request_id: str | None


class AuditEntryList(BaseModel):
    """Part of the audit trail, newest first."""

    entries: list[AuditEntry]
    next: str | None = Field(description="The next part's URL; null at the end.")


class Status(BaseModel):
    """Whether it is well."""

    status: Literal["ok"] = "ok"
