"""Request and response bodies of the HTTP API, for validation and for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema

from backline.channels.webhook.signatures import Scheme
from backline.messages.fields import parse_timestamp
from backline.settings import ChannelName
from backline.webhooks.endpoints import MAX_DESCRIPTION_LENGTH, Endpoint

MAX_ID = 2**62
"""Larger than any id, and far enough below bigint's maximum for arithmetic."""
BATCH_LIMIT = 1_000
"""Maximum number of messages in one request."""
MAX_LISTED_MESSAGES = 1_000
"""Maximum number of messages in the response to a replay of webhook events."""
ONE_LINE = r"^[^\x00-\x1f\x7f]+$"
_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
NOTE: Mapping[str, JsonValue] = {"pattern": f"^[^{_CONTROL}]*$", "maxLength": MAX_DESCRIPTION_LENGTH}
"""The JSON schema of a line for operators."""


Timestamp = Annotated[AwareDatetime, BeforeValidator(parse_timestamp)]
State = Literal["scheduled", "pending", "leased", "sent", "suppressed", "cancelled", "expired", "dead"]
SuppressionReason = Literal["hard_bounce", "complaint", "unsubscribed", "manual"]
RequestId = Annotated[str, Field(min_length=1, max_length=200, pattern=ONE_LINE)]
ShortText = Annotated[str, Field(min_length=1, max_length=400, pattern=ONE_LINE)]
TimeOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", examples=["21:00"])]
Recipient = Annotated[
    JsonValue,  # validated when the channels of its type are known
    WithJsonSchema({
        "description": "An address; for a type with several channels an object with one per channel.",
        "anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}],
        "examples": ["Ann <ann@example.com>"],
    }),
]  # fmt: skip
Payload = Annotated[
    dict[str, Any],  # not JsonValue: the body is JSON already, and checking each value again takes twice the time
    Field(description="The type's fields (docs/messages.md); secret ones in plaintext, encrypted before they are stored.",
          examples=[{"name": "Ann"}]),
]  # fmt: skip
# Parameters of routes.
Id = Annotated[int, Path(ge=1, le=MAX_ID)]
Text = Annotated[str | None, Query(max_length=400, pattern=ONE_LINE)]
Limit = Annotated[int, Query(ge=1, le=500)]
Cursor = Annotated[int | None, Query(ge=1, le=MAX_ID)]
NextUrl = Annotated[str | None, Field(description="The next page's URL; null at the end.")]


class RequestBody(BaseModel):
    """Base class of request bodies."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class NewMessage(RequestBody):
    """One message to send."""

    type: str = Field(description="A message type.", examples=["welcome"], max_length=100)
    to: Recipient
    payload: Payload = Field(default_factory=dict)
    due_at: Timestamp | None = Field(None, description="Not sent before this time.")
    expires_at: Timestamp | None = Field(None, description="Not sent after this time.")
    priority: int | None = Field(None, ge=1, le=10, description="1 (last) to 10 (first); by default the lane's.")
    lane: str | None = Field(None, description="Another lane of the type's channel, such as email.bulk.")
    request_id: RequestId | None = Field(None, description="By default this request's X-Request-ID.")


class Replay(RequestBody):
    """How a replayed message differs from the original; omitted fields are copied."""

    to: str | None = Field(None, description="Another recipient.")
    payload: Payload | None = Field(None, description="Another payload, complete; secret fields must be given again.")


class NewSuppression(RequestBody):
    """An address to suppress."""

    channel: ChannelName
    address: ShortText
    until: Timestamp | None = Field(None, description="By default permanently.")
    detail: ShortText | None = Field(None, description="The reason, for operators.")


class PreferenceUpdate(RequestBody):
    """The preferences of one recipient, complete: an omitted field is reset to the settings' default."""

    channel: ChannelName
    address: ShortText
    zone: str | None = Field(None, description="IANA time zone, such as Europe/Berlin.", max_length=60)
    quiet_from: TimeOfDay | None = Field(None, description="Start of quiet hours; equal to quiet_until: none.")
    quiet_until: TimeOfDay | None = Field(None, description="End of quiet hours.")
    per_day: int | None = Field(None, ge=0, le=1000, description="Maximum number of messages a day; 0: no limit.")
    opted_out: list[str] | None = Field(
        None,
        max_length=100,
        description='All topics that they have opted out of; "*" is everything. Omitted: unchanged.',
    )


class Reference(BaseModel):
    """A message, or a group for a type with several channels, and its URL."""

    id: int
    url: str


class Accepted(BaseModel):
    """The accepted messages, in the order given."""

    messages: list[Reference]
    request_id: str


class MessageFacts(BaseModel):
    """What is known of a message, alone or in a list."""

    id: int
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


class MessageSummary(MessageFacts):
    """One message of a list."""

    url: str


class MessageList(BaseModel):
    """A page of messages, newest first. It may have fewer than `limit` and still have a `next`."""

    messages: list[MessageSummary]
    next: NextUrl


class Group(BaseModel):
    """The messages of one enqueue of a type with several channels."""

    id: int
    messages: list[MessageSummary]


class Attempt(BaseModel):
    """One attempt to deliver a message."""

    number: int
    duration_ms: float
    outcome: str
    error_class: str | None
    code: str | None = Field(description='The receiver\'s own code: "250 2.0.0".')
    response: str | None = Field(description="The receiver's response, cut to 4 kB; null for types with secrets.")
    dag_run: str | None = Field(description="The run that made the attempt: DAG id, slash, run id.")
    process_end: str | None = Field(
        description="Of the outcome `rescued`: how the process that held the message ended."
    )
    log: str | None = Field(description="The page of Airflow's UI with its log.")


class TimelineEvent(BaseModel):
    """One event of a message's timeline."""

    at: AwareDatetime | None
    event: str
    text: str
    attempt: Attempt | None = None


class Message(MessageFacts):
    """One message with its timeline."""

    priority: int
    payload: dict[str, JsonValue] = Field(description='Secret fields are "(secret)", and erased once it is final.')
    why: str = Field(description="Why it was or was not sent, in one sentence.")
    timeline: list[TimelineEvent]
    due_at: AwareDatetime
    expires_at: AwareDatetime | None
    attempt: int = Field(description="The number of finished attempts.")
    max_attempts: int
    replay_of: int | None
    provider_id: str | None


class Progress(BaseModel):
    """The progress of a job's run."""

    dag_id: str
    run_id: str
    percent: float = Field(description="0 to 100; 0 also if the run has not reported any progress yet.")
    doing: str | None = Field(description="What the run is doing, in a few words.")
    updated_at: AwareDatetime | None = Field(description="Null if the run has not reported any progress yet.")
    expires_at: AwareDatetime | None = Field(description="When progress and result are deleted.")


class RunResult(Progress):
    """The result of a job's run."""

    result: JsonValue = Field(description="What the job returned.")


class Suppression(BaseModel):
    """A suppressed address."""

    id: int
    channel: str
    address: str
    reason: SuppressionReason
    source: str = Field(description="Who reported it: a provider, a user.")
    detail: str | None
    message_id: int | None = Field(description="The message that caused it.")
    since: AwareDatetime
    until: AwareDatetime | None = Field(description="Null: permanently.")


class SuppressionList(BaseModel):
    """A page of suppressions, newest first."""

    suppressions: list[Suppression]
    next: NextUrl


class OptOut(BaseModel):
    """A topic that a recipient has opted out of."""

    topic: str = Field(description='"*" is every topic.')
    source: str
    since: AwareDatetime


class Preferences(BaseModel):
    """The preferences, opt-outs and suppression of one recipient; null is the settings' default."""

    channel: str
    address: str
    zone: str | None
    quiet_from: time | None
    quiet_until: time | None
    per_day: int | None
    opted_out: list[OptOut]
    suppression: Suppression | None


class AuditEntry(BaseModel):
    """One entry of the audit trail."""

    id: int
    at: AwareDatetime
    actor: str
    action: str
    target: str
    before: dict[str, JsonValue] | None
    after: dict[str, JsonValue] | None
    request_id: str | None


class AuditEntryList(BaseModel):
    """A page of the audit trail, newest first."""

    entries: list[AuditEntry]
    next: NextUrl


class Status(BaseModel):
    """The state of the process."""

    status: Literal["ok"] = "ok"


# Webhook endpoints.


class NewEndpoint(RequestBody):
    """An endpoint to add."""

    url: str = Field(description="https://, at a public address.", examples=["https://shop.example/hooks"])
    event_types: list[str] = Field(
        default_factory=lambda: ["*"], description='"order.paid", "order.*" for a group of types, or "*" for all.',
        examples=[["order.*", "job.failed"]],
    )  # fmt: skip
    description: str = Field("", description="One line, for operators.", json_schema_extra={**NOTE})
    scheme: Scheme = Field("v1", description="v1: a shared secret; v1a: a public key for the receiver.")


class EndpointUpdate(RequestBody):
    """The fields to change; omitted ones are not changed."""

    url: str | None = None
    event_types: list[str] | None = None
    description: str | None = Field(None, json_schema_extra={**NOTE})


class SecretRotation(RequestBody):
    """How the secret is replaced."""

    scheme: Scheme | None = Field(None, description="By default the current secret's.")
    overlap_seconds: float | None = Field(
        None, description="How long the old secret also signs; by default a day, 0 after it has leaked."
    )


class DisableRequest(RequestBody):
    """Why an endpoint is disabled."""

    reason: str = Field(
        description="In a few words, for operators.",
        json_schema_extra={**NOTE, "pattern": f"^[^{_CONTROL}]*[!-~][^{_CONTROL}]*$"},
    )


class WebhookReplay(RequestBody):
    """What to send again: one message's event, or the events missed since a time."""

    message: int | None = Field(None, ge=1, le=MAX_ID, description="A message id: this endpoint's, or the event's.")
    since: Timestamp | None = Field(None, description="All events since then that it subscribes to and has missed.")
    include_delivered: bool = Field(False, description="With since: also the events that were delivered.")


@dataclass(frozen=True)
class EndpointWithSecret(Endpoint):
    """An endpoint with its new secret."""

    secret: str | None
    """It is not shown again. Null for v1a: the receiver needs only the public key."""


class EndpointList(BaseModel):
    """All endpoints."""

    endpoints: list[Endpoint]


class DisabledEndpoint(BaseModel):
    """A disabled or deleted endpoint, and how many of its waiting messages were suppressed."""

    id: str
    suppressed_count: int


class EnqueuedEvents(BaseModel):
    """The new messages, oldest event first; at most the first 1,000 are listed."""

    count: int
    messages: list[Reference]
    request_id: str
