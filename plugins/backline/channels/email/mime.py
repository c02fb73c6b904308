"""Builds an email's bytes (RFC 5322, RFC 2045-2049).

The standard library's `EmailMessage` builds about 650 messages a second, because it parses its own output. Here a message
is a few joined strings, encoded by `binascii`.
"""

from __future__ import annotations

import re
import secrets
from binascii import b2a_base64, b2a_qp
from collections.abc import Sequence
from functools import cache, lru_cache
from html.parser import HTMLParser
from time import gmtime, strftime

from backline.channels.content import Attachment, EmailContent
from backline.channels.email import headers
from backline.channels.email.addresses import Address
from backline.errors import InvalidInput

# "=_" cannot occur in a quoted-printable or base64 line (RFC 2045 section 6.7), and a body that contains it is never sent
# unencoded. So no content can forge the end of its part, even if its author saw an earlier mail of this process.
_BOUNDARY_MARK = b"=_"


def _multipart_delimiters(subtype: str) -> tuple[bytes, bytes, bytes]:
    """The text before, between and after the parts."""
    boundary = f"=_{subtype[:3]}_{secrets.token_hex(12)}"
    start = f'Content-Type: multipart/{subtype}; boundary="{boundary}"\r\n\r\n--{boundary}\r\n'
    return start.encode(), f"\r\n--{boundary}\r\n".encode(), f"\r\n--{boundary}--\r\n".encode()


_MIXED_START, _MIXED_NEXT, _MIXED_END = _multipart_delimiters("mixed")
_ALTERNATIVE_START, _ALTERNATIVE_NEXT, _ALTERNATIVE_END = _multipart_delimiters("alternative")

_MAX_UNENCODED_LINE_LENGTH = 990
_TEXT_BYTES = bytes([9, 10, 13, *range(32, 127)])
_CONTENT_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,100}")
_HIDDEN_TAGS = frozenset({"head", "style", "script", "title", "template"})
_PARAGRAPH_TAGS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "blockquote", "pre", "hr"})
_LINE_TAGS = frozenset({"br", "div", "tr", "li", "section", "article", "header", "footer"})
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def build_message(
    content: EmailContent,
    *,
    sender: str,
    to: Address,
    cc: Sequence[Address] = (),
    reply_to: Address | None = None,
    message_id: str,
    date: int,
) -> bytes:
    """The message with CRLF line ends, not dot-stuffed; InvalidInput names the field that is wrong.

    `sender` is the From field as `headers.address_header` builds it, `message_id` includes its angle brackets, `date` is
    in seconds since 1970. The result is 7-bit, except for addresses that need SMTPUTF8. Bcc is in no header.
    """
    headers.reject_control_characters(content.subject, "subject")
    head = [
        sender,
        headers.address_header("To", (to,)),
        headers.address_header("Cc", cc) if cc else "",
        headers.address_header("Reply-To", (reply_to,)) if reply_to else "",
        headers.unstructured_header("Subject", content.subject),
        f"Date: {_date(date)}\r\nMessage-ID: {message_id}\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n",
        headers.custom_headers(content.headers) if content.headers else "",
    ]
    pieces = ["".join(head).encode()]
    if content.attachments:
        pieces.append(_MIXED_START)
    _add_body(pieces, content)
    for index, attachment in enumerate(content.attachments):
        pieces += (_MIXED_NEXT, *_attachment(attachment, f"attachments[{index}]"))
    if content.attachments:
        pieces.append(_MIXED_END)
    return b"".join(pieces)


def normalize_newlines(text: str) -> str:
    """The text with line feeds as the only line ends, and one at its end."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") else text + "\n"


def _add_body(pieces: list[bytes], content: EmailContent) -> None:
    text, html = content.text, content.html
    if html is None:
        if text is None:
            raise InvalidInput("text", "an email needs a text or an HTML part; give text, html or both")
        pieces += _text_part(text, "plain", "text")
        return
    html_part = _text_part(html, "html", "html")
    text_part = _text_part(html_to_text(html) if text is None else text, "plain", "text")
    pieces += (_ALTERNATIVE_START, *text_part, _ALTERNATIVE_NEXT, *html_part, _ALTERNATIVE_END)


def _text_part(text: str, subtype: str, field: str) -> tuple[bytes, bytes]:
    """Header and body of a text part: unencoded if possible, else quoted-printable, or base64 if that is shorter."""
    try:
        data = normalize_newlines(text).replace("\n", "\r\n").encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(field, f"character {exc.start + 1} is half a surrogate pair, not text; remove it") from None
    unusual = len(data.translate(None, _TEXT_BYTES))
    if not unusual and _BOUNDARY_MARK not in data and _lines_fit(data):
        return _part_head(subtype, "7bit"), data
    if unusual * 6 > len(data):
        return _part_head(subtype, "base64"), _base64(data)
    return _part_head(subtype, "quoted-printable"), b2a_qp(data)


@cache
def _part_head(subtype: str, encoding: str) -> bytes:
    return f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode()


def _lines_fit(data: bytes) -> bool:
    """Whether every line is short enough to be sent unencoded; jumps from line end to line end."""
    end = 0
    while end < len(data):
        last = data.rfind(b"\n", end, end + _MAX_UNENCODED_LINE_LENGTH)
        if last < 0:
            return False
        end = last + 1
    return True


def _attachment(attachment: Attachment, field: str) -> tuple[bytes, bytes]:
    kind = attachment.content_type.lower()
    if not _CONTENT_TYPE.fullmatch(kind) or kind.startswith(("multipart/", "message/")):
        raise InvalidInput(f"{field}.content_type", f"{kind[:80]!r} is not a media type such as application/pdf")
    name = attachment.filename
    headers.reject_control_characters(name, f"{field}.filename")
    if not name.strip() or len(name) > 255 or "/" in name or "\\" in name:
        raise InvalidInput(f"{field}.filename", "must be a name of 1 to 255 characters without '/' and '\\'")
    head = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: base64\r\n{headers.content_disposition(name)}\r\n"
    return head.encode(), _base64(attachment.content)


def _base64(data: bytes) -> bytes:
    line = b2a_base64(data, newline=False)
    return b"\r\n".join([line[start : start + 76] for start in range(0, len(line), 76)]) + b"\r\n"


@lru_cache(maxsize=8)
def _date(seconds: int) -> str:
    # strftime's own names of days and months depend on the process's locale.
    utc = gmtime(seconds)
    day, month = _DAYS[utc.tm_wday], _MONTHS[utc.tm_mon - 1]
    return strftime(f"{day}, %d {month} %Y %H:%M:%S +0000", utc)


def html_to_text(html: str) -> str:
    """The text of an HTML document, with link targets after their text and dashes before list items."""
    reader = _TextExtractor()
    reader.feed(html)
    reader.close()
    lines = [" ".join(line.split()) for line in "".join(reader.pieces).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


class _TextExtractor(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = 0
        self._links: list[tuple[str, int]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN_TAGS:
            self._hidden += 1
        elif tag in _PARAGRAPH_TAGS:
            self.pieces.append("\n\n")
        elif tag in _LINE_TAGS:
            self.pieces.append("\n- " if tag == "li" else "\n")
        elif tag in {"td", "th"}:
            self.pieces.append(" ")
        elif tag == "a":
            self._links.append((dict(attrs).get("href") or "", len(self.pieces)))
        elif tag == "img" and (alternative := dict(attrs).get("alt")):
            self.pieces.append(alternative)

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN_TAGS:
            self._hidden = max(0, self._hidden - 1)
        elif tag in _PARAGRAPH_TAGS:
            self.pieces.append("\n\n")
        elif tag in _LINE_TAGS and tag != "br":
            self.pieces.append("\n")
        elif tag == "a" and self._links:
            target, start = self._links.pop()
            label = "".join(self.pieces[start:]).strip()
            if target and not target.startswith("#") and target.removeprefix("mailto:") != label:
                self.pieces.append(f" ({target})" if label else target)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            # Line breaks in the source have no meaning in HTML.
            self.pieces.append(re.sub(r"\s+", " ", data))
