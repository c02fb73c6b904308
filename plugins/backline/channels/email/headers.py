"""What headers a message may add, and how a header is folded (RFC 5322, sections 2.1.1 and 2.2)."""

from __future__ import annotations

import re

from backline.channels.recipients import CONTROL_CHARACTERS

PREFERRED_LINE_LENGTH = 78
"""Characters that a line should not exceed."""
MAX_LINE_LENGTH = 998
"""Characters that a line must not exceed."""
_NAME = re.compile(r"[!-9;-~]{1,70}")
_SINGLE_SPACE = re.compile(r"(?<=[^ ]) (?=[^ ])")
RESERVED_HEADERS = frozenset(
    """
    from sender to cc bcc reply-to subject date message-id mime-version auto-submitted return-path received
    delivered-to dkim-signature authentication-results arc-seal arc-message-signature arc-authentication-results
    resent-from resent-sender resent-to resent-cc resent-bcc resent-date resent-message-id
    """.split()  # noqa: SIM905 - thirty quoted strings are harder to read
)
"""Headers that the channel or a mail server writes; those of content-... too."""


def check_header(name: str, value: str) -> str | None:
    """Why a message cannot have this header, or None: the rule of the payload and of the channel."""
    if not _NAME.fullmatch(name):
        return f"{name[:80]!r} cannot be a header's name; use letters, digits and '-', at most 70"
    if name.lower() in RESERVED_HEADERS or name.lower().startswith("content-"):
        return f"{name!r} is written by Backline or a mail server; remove it (cc, bcc and reply_to are fields)"
    if not value.strip():
        return f"{name}: must not be empty"
    if not value.isprintable() and CONTROL_CHARACTERS.search(value):
        return f"{name}: must be one line of text; remove line breaks and control characters"
    # Other values are encoded in pieces.
    if value.isascii() and any(len(line) > MAX_LINE_LENGTH for line in fold(name, value.strip()).split("\r\n")):
        return f"{name}: has a word that does not fit a line of {MAX_LINE_LENGTH} characters; shorten it"
    return None


def fold(name: str, value: str) -> str:
    """A header broken at single spaces, so that it unfolds to exactly the given value and no line is blank."""
    lines = []
    first, *words = _SINGLE_SPACE.split(value)
    line = f"{name}: {first}"
    for word in words:
        if len(line) + 1 + len(word) > PREFERRED_LINE_LENGTH:
            lines.append(line)
            line = ""
        line += f" {word}"
    return "\r\n".join([*lines, line]) + "\r\n"
