"""What a message type says in an email, before it is bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that travels with an email."""

    filename: str
    content_type: str
    content: bytes


class EmailContent(NamedTuple):
    """Subject, parts and extra addresses; `text` or `html` may be None, not both."""

    subject: str
    text: str | None = None
    html: str | None = None
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    reply_to: str | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    attachments: tuple[Attachment, ...] = ()
