"""Email header fields: validated, encoded (RFC 2047, RFC 2231) and folded (RFC 5322 section 2.2.3)."""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from backline.channels.email.addresses import Address
from backline.errors import InvalidInput

PREFERRED_LINE_LENGTH = 78
"""Characters that a line should not exceed."""
MAX_LINE_LENGTH = 998
"""Characters that a line must not exceed."""
MAX_ENCODED_LINE_LENGTH = 76
"""Characters that a line with an encoded word must not exceed (RFC 2047 section 2)."""

_CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_FIELD_NAME = re.compile(r"[!-9;-~]{1,70}")
_PLAIN = re.compile(r"[!-~]+(?: [!-~]+)*")
_SINGLE_SPACE = re.compile(r"(?<=[^ ]) (?=[^ ])")
_LONG_WORD = re.compile(r"[^ ]{61}")
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_QUOTABLE = re.compile(r"[ -~]{1,60}")
_FILENAME = re.compile(r"[ !#$%&'()+,\-.0-9:;<=>@A-Z\[\]^_`a-z{}~]{1,55}")
_RESERVED = frozenset(
    """
    from sender to cc bcc reply-to subject date message-id mime-version auto-submitted return-path received
    delivered-to dkim-signature authentication-results arc-seal arc-message-signature arc-authentication-results
    resent-from resent-sender resent-to resent-cc resent-bcc resent-date resent-message-id
    """.split()  # noqa: SIM905 - thirty quoted strings are harder to read
)


def reject_control_characters(value: str, field: str) -> None:
    """Raise InvalidInput, naming the field, for a text that could end its header field."""
    if not value.isprintable() and (match := _CONTROL_CHARACTERS.search(value)):
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
            return _fold(name, value)
    return f"{name}: {_encoded_words(value, len(name) + 2)}\r\n" if value else f"{name}:\r\n"


def custom_headers(headers: Mapping[str, str]) -> str:
    """The header fields that a message adds; InvalidInput for a name or value that is not allowed."""
    fields = []
    for name, value in headers.items():
        field = f"headers.{name}"
        reject_control_characters(name, "headers")
        if not _FIELD_NAME.fullmatch(name):
            raise InvalidInput(field, "a header name has 1 to 70 ASCII characters, without spaces and ':'")
        if name.lower() in _RESERVED or name.lower().startswith("content-"):
            raise InvalidInput(field, "Backline or a mail server sets this header; remove it")
        reject_control_characters(value, field)
        if not value.isascii():
            fields.append(f"{name}: {_encoded_words(value, len(name) + 2)}\r\n")
            continue
        # Not encoded, because it may have a syntax of its own (List-Unsubscribe: <https://...>).
        folded = _fold(name, value.strip())
        if any(len(line) > MAX_LINE_LENGTH for line in folded.split("\r\n")):
            raise InvalidInput(
                field, f"has a word that does not fit a line of {MAX_LINE_LENGTH} characters; shorten it"
            )
        fields.append(folded)
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


def _fold(name: str, value: str) -> str:
    """Break at single spaces, so that the field unfolds to exactly the given value and no line is blank."""
    lines = []
    first, *words = _SINGLE_SPACE.split(value)
    line = f"{name}: {first}"
    for word in words:
        if len(line) + 1 + len(word) > PREFERRED_LINE_LENGTH:
            lines.append(line)
            line = ""
        line += f" {word}"
    return "\r\n".join([*lines, line]) + "\r\n"


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
