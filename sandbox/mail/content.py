"""Parses a caught message: headers, text, HTML, links, attachments.

Mail may be malformed in any way; nothing here raises because of a message's content.
"""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from dataclasses import dataclass
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from html.parser import HTMLParser

TEXT_LIMIT = 2_000_000
"""The most characters shown of a text or HTML part."""

LINK_SCAN_LIMIT = 200_000
"""The most characters of the HTML that are searched for links."""

_HEADER_FOLD = re.compile(r"\r?\n(?=[ \t])")
_EMBEDDABLE = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part other than the message's text and HTML."""

    filename: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a message. `links` are those of its HTML, in order, without duplicates."""

    headers: list[tuple[str, str]]
    text: str
    html: str
    links: list[str]
    attachments: list[Attachment]


def parse_content(raw: bytes) -> Content:
    """Parse a message."""
    message = message_from_bytes(raw)
    headers = [(name, decode_header_text(value)) for name, value in message.raw_items()]
    text = html = ""
    attachments: list[Attachment] = []
    embedded: dict[str, str] = {}
    for number, part in enumerate(item for item in message.walk() if not item.is_multipart()):
        kind = part.get_content_type()
        attached = part.get_content_disposition() == "attachment" or _filename(part)
        if kind == "text/plain" and not text and not attached:
            text = _part_text(part)
        elif kind == "text/html" and not html and not attached:
            html = _part_text(part)
        else:
            content = _part_bytes(part)
            attachments.append(Attachment(_filename(part) or f"part-{number}", _without_surrogates(kind), content))
            if kind in _EMBEDDABLE and (reference := str(part.get("Content-ID", "")).strip(" <>")):
                embedded[reference] = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    for reference, data in embedded.items():
        html = html.replace(f"cid:{reference}", data)
    return Content(headers, text, html, _extract_links(html), attachments)


def decode_header_text(value: object) -> str:
    """Decode a header's value: unfold it, decode RFC 2047 encoded words and raw UTF-8 (RFC 6532)."""
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    text = _HEADER_FOLD.sub("", raw.decode("utf-8", "replace")).strip()
    if "=?" in text:
        try:
            text = str(make_header(decode_header(text)))
        except (ValueError, LookupError, HeaderParseError):
            return text
    return _without_surrogates(text)


def _filename(part: Message) -> str:
    try:
        return decode_header_text(part.get_filename() or "")
    except (ValueError, LookupError, TypeError):
        return ""


def _part_bytes(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _part_text(part: Message) -> str:
    payload = _part_bytes(part)
    try:
        text = payload.decode(str(part.get_content_charset() or "utf-8"), "replace")
    except (LookupError, ValueError):
        text = payload.decode("utf-8", "replace")
    return _without_surrogates(text[:TEXT_LIMIT].replace("\r\n", "\n"))


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates, which no response can encode."""
    return text.encode("utf-8", "replace").decode()


class _LinkCollector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: dict[str, None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the target of a link."""
        target = (dict(attrs).get("href") or "").strip()
        if tag == "a" and target.lower().startswith(("http://", "https://", "mailto:")):
            self.links[target] = None


def _extract_links(html: str) -> list[str]:
    collector = _LinkCollector()
    with suppress(AssertionError, ValueError):  # html.parser gives up on some broken declarations
        collector.feed(html[:LINK_SCAN_LIMIT])
    return list(collector.links)
