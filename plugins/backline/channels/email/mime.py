"""Builds an email's bytes (RFC 5322, RFC 2045-2049): header fields, text parts and attachments.

The standard library's `EmailMessage` builds about 650 messages a second, because it parses its own output. Here a message
is a few joined strings, encoded by `binascii`.
"""

from __future__ import annotations

import re
import secrets
from binascii import b2a_base64, b2a_qp
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache, lru_cache
from html import unescape
from urllib.parse import quote
from xml.etree.ElementTree import Element

from backline.channels.base import MAX_FILENAME_LENGTH, Attachment, EmailContent
from backline.channels.email.headers import PREFERRED_LINE_LENGTH, check_header, fold
from backline.channels.recipients import CONTROL_CHARACTERS, Address
from backline.errors import InvalidInput

MAX_ENCODED_LINE_LENGTH = 76
"""Characters that a line with an encoded word must not exceed (RFC 2047 section 2)."""

_PLAIN = re.compile(r"[!-~]+(?: [!-~]+)*")
_LONG_WORD = re.compile(r"[^ ]{61}")
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_QUOTABLE = re.compile(r"[ -~]{1,60}")
_FILENAME = re.compile(r"[ !#$%&'()+,\-.0-9:;<=>@A-Z\[\]^_`a-z{}~]{1,55}")

# "=_" cannot occur in a quoted-printable or base64 line (RFC 2045 section 6.7), and a body that contains it is never sent
# unencoded. So no content can forge the end of its part, even if its author saw an earlier mail of this process.
_BOUNDARY_MARK = b"=_"


def _multipart_delimiters(subtype: str) -> tuple[bytes, bytes, bytes]:
    boundary = f"=_{subtype[:3]}_{secrets.token_hex(12)}"
    start = f'Content-Type: multipart/{subtype}; boundary="{boundary}"\r\n\r\n--{boundary}\r\n'
    return start.encode(), f"\r\n--{boundary}\r\n".encode(), f"\r\n--{boundary}--\r\n".encode()


_MIXED_START, _MIXED_NEXT, _MIXED_END = _multipart_delimiters("mixed")
_ALTERNATIVE_START, _ALTERNATIVE_NEXT, _ALTERNATIVE_END = _multipart_delimiters("alternative")

_MAX_UNENCODED_LINE_LENGTH = 990
_TEXT_BYTES = bytes([9, 10, 13, *range(32, 127)])
_CONTENT_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,100}")
MAX_PARSED_HTML = 100_000
"""Characters that are parsed, in five seconds at worst: one tag of as many attributes."""
MAX_PARSED_TAGS = 3_000
"""Tags that are parsed: the parser's time grows with their square, to about a second for so many nested ones."""
_TAG = re.compile(r"<[^<>]{0,2000}>")
_HIDDEN_TAGS = frozenset({"head", "style", "script", "title", "template"})
_PARAGRAPH_TAGS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "blockquote", "pre", "hr"})
_LINE_TAGS = frozenset({"br", "div", "tr", "li", "section", "article", "header", "footer"})


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

    `sender` is the From field as `address_header` builds it, `message_id` includes its angle brackets, `date` is
    in seconds since 1970. The result is 7-bit, except for addresses that need SMTPUTF8. Bcc is in no header.
    """
    reject_control_characters(content.subject, "subject")
    head = [
        sender,
        address_header("To", (to,)),
        address_header("Cc", cc) if cc else "",
        address_header("Reply-To", (reply_to,)) if reply_to else "",
        unstructured_header("Subject", content.subject),
        f"Date: {_date(date)}\r\nMessage-ID: {message_id}\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n",
        custom_headers(content.headers) if content.headers else "",
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
    reject_control_characters(name, f"{field}.filename")
    if not name.strip() or len(name) > MAX_FILENAME_LENGTH or "/" in name or "\\" in name:
        raise InvalidInput(f"{field}.filename", "must be a name of 1 to 255 characters without '/' and '\\'")
    head = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: base64\r\n{content_disposition(name)}\r\n"
    return head.encode(), _base64(attachment.content)


def _base64(data: bytes) -> bytes:
    line = b2a_base64(data, newline=False)
    return b"\r\n".join([line[start : start + 76] for start in range(0, len(line), 76)]) + b"\r\n"


def reject_control_characters(value: str, field: str) -> None:
    """Raise InvalidInput, naming the field, for a text that could end its header field."""
    if not value.isprintable() and (match := CONTROL_CHARACTERS.search(value)):
        code = f"U+{ord(match[0]):04X}"
        problem = f"character {match.start() + 1} is a line break or control character ({code}); remove it"
        raise InvalidInput(field, problem)


def unstructured_header(name: str, value: str) -> str:
    """A header field of free text, such as the subject, which decodes to exactly the given text."""
    if _PLAIN.fullmatch(value) and "=?" not in value:
        line = f"{name}: {value}\r\n"
        if len(line) <= PREFERRED_LINE_LENGTH + 2:
            return line
        if not _LONG_WORD.search(value):
            return fold(name, value)
    return f"{name}: {_encoded_words(value, len(name) + 2)}\r\n" if value else f"{name}:\r\n"


def custom_headers(headers: Mapping[str, str]) -> str:
    """The header fields that a message adds; InvalidInput for a name or value that is not allowed."""
    fields = []
    for name, value in headers.items():
        if problem := check_header(name, value):
            raise InvalidInput(f"headers.{name}" if name.isprintable() else "headers", problem)
        # ASCII is not encoded, because it may have a syntax of its own (List-Unsubscribe: <https://...>).
        fields.append(
            fold(name, value.strip()) if value.isascii() else f"{name}: {_encoded_words(value, len(name) + 2)}\r\n"
        )
    return "".join(fields)


def address_header(name: str, addresses: Iterable[Address]) -> str:
    """An address field: `To: Name <a@b.example>, c@d.example`."""
    entries = [mailbox(address, len(name) + 2) for address in addresses]
    line = f"{name}: {', '.join(entries)}\r\n"
    return line if len(line) <= PREFERRED_LINE_LENGTH + 2 else f"{name}: " + ",\r\n ".join(entries) + "\r\n"


def mailbox(address: Address, column: int) -> str:
    """One address, its display name quoted or encoded if necessary; `column` is where it starts."""
    name, spec = address
    if not name:
        return spec
    if _PHRASE.fullmatch(name) and len(name) <= 60 and "=?" not in name:
        phrase = name
    elif _QUOTABLE.fullmatch(name) and "=?" not in name and "  " not in name and name == name.strip():
        phrase = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    else:
        phrase = _encoded_words(name, column)
    used = len(phrase) - phrase.rfind("\n") - 1 if "\n" in phrase else column + len(phrase)
    space = " " if used + len(spec) + 3 <= PREFERRED_LINE_LENGTH else "\r\n "
    return f"{phrase}{space}<{spec}>"


def content_disposition(filename: str) -> str:
    """Content-Disposition of an attachment; a name that is long or not plain ASCII is encoded by RFC 2231."""
    filename = filename.strip()
    if _FILENAME.fullmatch(filename):
        return f'Content-Disposition: attachment;\r\n filename="{filename}"\r\n'
    encoded = quote(filename, safe="", encoding="utf-8")
    if len(encoded) <= 55:
        return f"Content-Disposition: attachment;\r\n filename*=utf-8''{encoded}\r\n"
    pieces = re.findall(r"(?:%..|[^%]){1,18}", encoded)
    pieces[0] = f"utf-8''{pieces[0]}"
    lines = [f" filename*{number}*={piece}" for number, piece in enumerate(pieces)]
    return "Content-Disposition: attachment;\r\n" + ";\r\n".join(lines) + "\r\n"


def _encoded_words(text: str, column: int) -> str:
    """Base64 encoded words, each but the first on a line of its own; none splits a character."""
    data = text.encode()
    words = []
    start = 0
    while start < len(data):
        room = MAX_ENCODED_LINE_LENGTH - max(column, 1) - len("=?utf-8?b??=")
        end = start + max(room // 4 * 3, 6)
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        words.append(f"=?utf-8?b?{b2a_base64(data[start:end], newline=False).decode('ascii')}?=")
        start, column = end, 1
    return "\r\n ".join(words)


@lru_cache(maxsize=8)
def _date(seconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))


def html_to_text(html: str) -> str:
    """The text of an HTML document, with link targets after their text and dashes before list items.

    Parsed as browsers do (WHATWG HTML), whatever is missing or wrong in it; of a document of more than `MAX_PARSED_HTML`
    characters or `MAX_PARSED_TAGS` tags the tags are only removed.
    """
    if len(html) > MAX_PARSED_HTML or html.count("<") > MAX_PARSED_TAGS:
        text = unescape(_TAG.sub(" ", html))
    else:
        from tinyhtml5 import parse  # slow to import, and most messages have a text part

        text = _element_text(parse(html, namespace_html_elements=False))
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _element_text(root: Element) -> str:
    """The texts of the tree in order, without recursion: a document may be nested thousands of elements deep."""
    pieces: list[str] = []
    links: list[int] = []
    preformatted = 0
    steps: list[tuple[Element, bool]] = [(root, False)]
    while steps:
        element, is_end = steps.pop()
        tag = element.tag if isinstance(element.tag, str) else "script"  # a comment
        if not is_end:
            steps.append((element, True))
            pieces.append(_before(element, tag))
            preformatted += tag == "pre"
            links += [len(pieces)] if tag == "a" else []
            if tag not in _HIDDEN_TAGS:
                pieces.append(_collapsed(element.text, keep=preformatted > 0))
                steps += [(child, False) for child in reversed(element)]
            continue
        preformatted -= tag == "pre"
        if tag == "a":
            pieces.append(_link_target(element.get("href") or "", "".join(pieces[links.pop() :]).strip()))
        elif tag in _PARAGRAPH_TAGS:
            pieces.append("\n\n")
        elif tag in _LINE_TAGS and tag not in {"br", "li"}:
            pieces.append("\n")
        pieces.append(_collapsed(element.tail, keep=preformatted > 0))
    return "".join(pieces)


def _before(element: Element, tag: str) -> str:
    if tag in _PARAGRAPH_TAGS:
        return "\n\n"
    if tag in _LINE_TAGS:
        return "\n- " if tag == "li" else "\n"
    if tag == "img":
        return element.get("alt") or ""
    return " " if tag in {"td", "th"} else ""


def _collapsed(text: str | None, *, keep: bool) -> str:
    """Line breaks in the source have no meaning in HTML, except in <pre>."""
    return (text or "") if keep else re.sub(r"\s+", " ", text or "")


def _link_target(target: str, label: str) -> str:
    if not target or target.startswith("#") or target.removeprefix("mailto:") == label:
        return ""
    return f" ({target})" if label else target
