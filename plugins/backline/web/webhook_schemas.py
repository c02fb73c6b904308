"""What the routes of webhook endpoints take and give."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, Field

from backline.web.schemas import MAX_ID, Reference, RequestBody, Timestamp

MAX_LISTED_MESSAGES = 1_000
"""Messages of a replay that its answer lists."""
Scheme = Literal["v1", "v1a"]


class NewEndpoint(RequestBody):
    """An endpoint to add."""

    url: str = Field(description="https://, at a public address.", examples=["https://shop.example/hooks"])
    event_types: list[str] = Field(
        default_factory=lambda: ["*"], description='"order.paid", all of a kind by "order.*", or "*".',
        examples=[["order.*", "job.failed"]],
    )  # fmt: skip
    description: str = Field("", description="One line for people.")
    scheme: Scheme = Field("v1", description="v1: a secret that both sides have; v1a: a public key for the receiver.")


class EndpointUpdate(RequestBody):
    """What to change; what is left out stays."""

    url: str | None = None
    event_types: list[str] | None = None
    description: str | None = None


class SecretRotation(RequestBody):
    """How the secret is replaced."""

    scheme: Scheme | None = Field(None, description="The present one's if left out.")
    overlap_seconds: float | None = Field(
        None, description="How long the old secret still signs; a day if left out, 0 after it has leaked."
    )


class DisableRequest(RequestBody):
    """Why an endpoint is disabled."""

    reason: str = Field(description="In a few words, for those who find it disabled.")


class WebhookReplay(RequestBody):
    """What to send again: one message's event, or what was missed since a time."""

    message: int | None = Field(None, ge=1, le=MAX_ID, description="A message's id: this endpoint's, or the event's.")
    since: Timestamp | None = Field(None, description="All events from then on that it asks for and has not taken.")
    include_delivered: bool = Field(False, description="With since: also those that it has taken.")


class Secret(BaseModel):
    """A secret that signs, without what is secret of it."""

    scheme: Scheme
    public_key: str | None = Field(description="Of v1a: what the receiver checks signatures with.")
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = Field(description="When it stops to sign; null: it is the present one.")


class Endpoint(BaseModel):
    """One endpoint."""

    id: str
    url: str
    description: str
    event_types: list[str]
    state: Literal["active", "disabled"]
    disabled_reason: str | None
    disabled_at: AwareDatetime | None
    failing_since: AwareDatetime | None = Field(description="Its first failure since it last took an event.")
    last_error: str | None
    created_at: AwareDatetime
    secrets: list[Secret]


class EndpointWithSecret(Endpoint):
    """An endpoint with its new secret."""

    secret: str | None = Field(
        description="Keep it, it is not shown again. Null for v1a: the receiver needs the public key alone."
    )


class EndpointList(BaseModel):
    """All endpoints."""

    endpoints: list[Endpoint]


class DisabledEndpoint(BaseModel):
    """An endpoint that gets nothing more, and how many messages waited for it."""

    id: str
    suppressed_count: int


class EnqueuedEvents(BaseModel):
    """Messages that were made, oldest event first; of many, the first 1,000 are listed."""

    count: int
    messages: list[Reference]
    request_id: str
