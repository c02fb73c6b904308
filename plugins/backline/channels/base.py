"""The contract between message types, the dispatcher and channels.

A channel turns a message into bytes (`prepare`, pure CPU) and delivers them through sessions (`Session.send`, I/O). A
session is one persistent connection. The dispatcher opens `Channel.connections` of them and gives each up to
`Channel.messages_per_session` messages at a time. All errors are subclasses of `backline.errors.BacklineError`.

Heavy imports do not belong here: every task imports the message types, and with them this module.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

P = TypeVar("P")
P_contra = TypeVar("P_contra", contravariant=True)


MAX_TIMEOUT_SECONDS = 120.0
"""Of one attempt, unless a channel has its own limit."""
RESPONSE_LIMIT = 4096
"""Bytes of a receiver's response that are stored."""
MAX_FILENAME_LENGTH = 255
"""Characters of an attachment's name."""
ALL_ENDPOINTS = "*"
"""The webhook recipient that means every subscribed endpoint."""


def attempt_timeout(seconds: float, attempt: int, limit: float = MAX_TIMEOUT_SECONDS) -> float:
    """The timeout of an attempt, numbered from 1: doubles with every attempt up to the limit, and never shrinks."""
    return max(seconds, min(seconds * 2.0 ** min(attempt - 1, 10), limit))


def truncate(text: str) -> str:
    """The text, cut to RESPONSE_LIMIT bytes of UTF-8."""
    if len(text) * 4 <= RESPONSE_LIMIT:
        return text
    return text.encode("utf-8", "replace")[:RESPONSE_LIMIT].decode("utf-8", "ignore")


class Message(NamedTuple):
    """One message for a channel. Its secret fields are decrypted here and nowhere else."""

    id: int
    type: str
    recipient: str
    payload: Mapping[str, object]
    created_at: datetime
    attempt: int = 1
    """The attempt's number, from 1; a channel may give later attempts a longer timeout."""
    payload_json: str | None = None
    """The payload as it is stored, with the very digits of its numbers; None if it has changed since."""


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
    data: Mapping[str, object]


class Receipt(NamedTuple):
    """The receiver's confirmation that it accepted the message."""

    code: str
    response: str
    provider_id: str
    refused_recipients: tuple[tuple[str, str], ...] = ()
    """Recipients that were refused while others were accepted, with the response: cc, bcc, devices."""


class SessionBusy(Exception):
    """The session's previous message takes long, and nothing of this one was sent; `wait` returns when the next can begin."""

    def __init__(self, wait: Callable[[], Awaitable[object]]) -> None:
        super().__init__("the previous message takes long")
        self.wait = wait


class Session(Protocol[P_contra]):
    """One persistent connection, opened by the first send and reopened after it breaks."""

    async def send(self, prepared: P_contra) -> Receipt:
        """Deliver one message; raises RetryableError or PermanentError, or SessionBusy if it takes several at a time."""

    async def close(self) -> None:
        """Close the connection; never raises."""


class Channel(Protocol[P]):
    """One means of delivery. P is what it prepares from a message: a built email, an HTTP request."""

    name: str
    connections: int
    """How many sessions a dispatcher keeps."""
    messages_per_session: int
    """How many messages a session takes at a time. With 2, the next one is ready when the previous one is sent."""

    def prepare(self, message: Message) -> P:
        """Render and build the message; raises InvalidInput, naming the field, if that is impossible."""

    def session(self) -> Session[P]:
        """A new session, not yet connected."""
