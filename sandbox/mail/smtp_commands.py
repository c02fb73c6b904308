"""Parses and checks the arguments of MAIL and RCPT (RFC 5321 section 4.1.1)."""

from __future__ import annotations

import re

MESSAGE_SIZE_LIMIT = 35 * 1024 * 1024
"""Largest message accepted, in bytes; announced by SIZE (RFC 1870)."""

MESSAGE_TOO_BIG = "552 5.3.4 Message too big"

_PATH = re.compile(r'(FROM|TO):\s*<((?:"(?:[^"\\]|\\.)*"|[^"<>])*)>((?:\s+\S+)*)', re.IGNORECASE)


class CommandRejected(Exception):
    """A command is rejected. The text is the reply."""


def parse_mail(argument: str) -> tuple[str, bool]:
    """Parse `MAIL FROM:<address> options`: the sender, and whether SMTPUTF8 is set. Raises CommandRejected."""
    address, options = _parse_path("FROM", argument)
    utf8 = False
    for option in options:
        name, _, value = option.upper().partition("=")
        if name == "SIZE" and value.isdecimal():
            if int(value[:20]) > MESSAGE_SIZE_LIMIT:
                raise CommandRejected(MESSAGE_TOO_BIG)
        elif name == "SMTPUTF8":
            utf8 = True
        elif name not in ("BODY", "AUTH"):
            raise CommandRejected("555 5.5.4 Unknown parameter")
    _check_ascii(address, utf8=utf8)
    return address, utf8


def parse_rcpt(argument: str, *, utf8: bool) -> str:
    """Parse `RCPT TO:<address>`; `utf8` is whether MAIL set SMTPUTF8. Raises CommandRejected."""
    address, options = _parse_path("TO", argument)
    if options:
        raise CommandRejected("555 5.5.4 Unknown parameter")
    if "@" not in address and address.lower() != "postmaster":
        raise CommandRejected("553 5.1.3 Not an address")
    _check_ascii(address, utf8=utf8)
    return address


def _parse_path(keyword: str, argument: str) -> tuple[str, list[str]]:
    found = _PATH.fullmatch(argument)
    if not found or found[1].upper() != keyword:
        raise CommandRejected(f"501 5.5.4 Bad syntax, should be {keyword}:<address>")
    return found[2], found[3].split()


def _check_ascii(address: str, *, utf8: bool) -> None:
    if not utf8 and not address.isascii():
        raise CommandRejected("553 5.6.7 Address needs SMTPUTF8")
