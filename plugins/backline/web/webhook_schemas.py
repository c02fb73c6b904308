"""Request and response bodies of the routes of webhook endpoints."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, Field

from backline.channels.webhook.signatures import Scheme
from backline.web.schemas import MAX_ID, Reference, RequestBody, Timestamp
from backline.webhooks.endpoints import Endpoint

MAX_LISTED_MESSAGES = 1_000
"""Maximum number of messages in the response to a replay."""


class NewEndpoint(RequestBody):
    """An endpoint to add."""

    url: str = Field(description="https://, at a public address.", examples=["https://shop.example/hooks"])
    event_types: list[str] = Field(
        default_factory=lambda: ["*"], description='"order.paid", "order.*" for a group of types, or "*" for all.',
        examples=[["order.*", "job.failed"]],
    )  # fmt: skip
    description: str = Field("", description="One line, for operators.")
    scheme: Scheme = Field("v1", description="v1: a shared secret; v1a: a public key for the receiver.")


class EndpointUpdate(RequestBody):
    """The fields to change; omitted ones are not changed."""

    url: str | None = None
    event_types: list[str] | None = None
    description: str | None = None


class SecretRotation(RequestBody):
    """How the secret is replaced."""

    scheme: Scheme | None = Field(None, description="By default the current secret's.")
    overlap_seconds: float | None = Field(
        None, description="How long the old secret also signs; by default a day, 0 after it has leaked."
    )


class DisableRequest(RequestBody):
    """Why an endpoint is disabled."""

    reason: str = Field(description="In a few words, for operators.")


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
