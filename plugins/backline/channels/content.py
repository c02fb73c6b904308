"""What a message type gives a channel to deliver. Kept free of heavy imports: every task imports the message types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

ALL_ENDPOINTS = "*"
"""The webhook recipient that means every subscribed endpoint."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file attached to an email."""

    filename: str
    content_type: str
    content: bytes


class EmailContent(NamedTuple):
    """An email's subject, parts and further addresses; `text` or `html` may be None, not both."""

    subject: str
    text: str | None = None
    html: str | None = None
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    reply_to: str | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    attachments: tuple[Attachment, ...] = ()


class PushContent(NamedTuple):
    """A push notification, with data for the app on the device."""

    title: str
    body: str
    data: Mapping[str, str] = MappingProxyType({})
    ttl_seconds: int | None = None
    """How long the provider keeps it for a device that is offline. None: four weeks, the maximum. 0: now or never."""
    collapse_key: str | None = None
    """A device that was offline shows only the latest notification of each key."""


class WebhookContent(NamedTuple):
    """One event. Its id and time are the same in every attempt, every replay and for every endpoint."""

    event_id: str
    event_type: str
    occurred_at: datetime
    data: Mapping[str, Any]
