"""Replies of an SMTP server, and the steps of a session that they belong to (RFC 5321 section 4.2, RFC 2034)."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?=\s|$)")


class Stage(StrEnum):
    """The command, or other step of the session, that a reply belongs to."""

    GREETING = "the greeting"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    RESET = "RSET"
    MAIL = "MAIL FROM"
    RCPT = "RCPT TO"
    DATA = "DATA"
    BODY = "the message"


CONNECTION_STAGES = frozenset({Stage.GREETING, Stage.EHLO, Stage.STARTTLS, Stage.AUTH, Stage.RESET})
"""Stages that concern the connection, not a message."""


class Reply(NamedTuple):
    """One reply of a server: its code, and its lines without the codes, joined by line feeds."""

    code: int
    text: str

    @property
    def enhanced(self) -> str:
        """The enhanced status code (RFC 2034), or an empty string."""
        match = _ENHANCED.match(self.text)
        return match[0] if match else ""

    @property
    def status(self) -> str:
        """Both codes: `550 5.1.1`, or `550` alone."""
        return f"{self.code} {self.enhanced}".rstrip()

    def __str__(self) -> str:
        return f"{self.code} {self.text}"
