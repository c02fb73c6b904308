"""What the dispatcher asks of a channel.

A channel turns a message into bytes (`prepare`, pure CPU) and hands them to the far side through
sessions (`Session.send`, I/O). A session is one kept connection: the dispatcher opens a few and
gives each up to `Channel.depth` messages at a time. All errors are of `backline.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar

P = TypeVar("P")
P_contra = TypeVar("P_contra", contravariant=True)


RESPONSE_LIMIT = 4096
"""Bytes of the far side's answer that are kept."""


def truncate(text: str) -> str:
    """The text, cut to RESPONSE_LIMIT bytes of UTF-8."""
    if len(text) * 4 <= RESPONSE_LIMIT:
        return text
    return text.encode("utf-8", "replace")[:RESPONSE_LIMIT].decode("utf-8", "ignore")


class Message(NamedTuple):
    """One message as the channel sees it: secrets are already in the clear, and only here."""

    id: int
    type: str
    recipient: str
    payload: Mapping[str, Any]
    created_at: datetime
    attempt: int = 1
    """Which try this is, from 1: a channel may allow a later try more time."""


class Receipt(NamedTuple):
    """The far side's word that it has taken the message."""

    code: str
    response: str
    provider_id: str
    refused_recipients: tuple[tuple[str, str], ...] = ()
    """Recipients (cc, bcc) that were refused while others were taken: (address, answer)."""


class Session(Protocol[P_contra]):
    """One kept connection. It connects at its first send, and again after it broke."""

    async def send(self, prepared: P_contra) -> Receipt:
        """Hand one message over; raises RetryableError or PermanentError."""

    async def close(self) -> None:
        """Say goodbye; never raises."""


class Channel(Protocol[P]):
    """One way out. P is what it makes of a message: a built email, an HTTP request."""

    name: str
    connections: int
    """How many sessions a dispatcher should keep."""
    messages_per_session: int
    """How many messages a session may be given at a time: with 2, one is ready when the one before has gone."""

    def prepare(self, message: Message) -> P:
        """Render and build; raises InvalidInput, naming the field, when it cannot be built."""

    def session(self) -> Session[P]:
        """A new session, not yet connected."""
