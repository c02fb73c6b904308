"""The field types that payloads are made of. Their checks raise ValueError with the fix in the text."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, JsonValue

from backline.channels.email import addresses
from backline.errors import InvalidInput

HEADER_NAME = re.compile(r"[!#-9;-~]{1,70}")
"""A header's name: printable ASCII but no space and no colon (RFC 5322, section 2.2)."""

# fmt: off
OWN_HEADERS = frozenset({
    "from", "sender", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "mime-version",
    "return-path", "received", "dkim-signature", "auto-submitted",
})
# fmt: on
"""Headers that the channel writes itself, or that a mail server does."""


def check_address(text: str) -> str:
    """One email address, with or without a display name; ValueError says what is wrong with it."""
    try:
        addresses.parse(text, "address")
    except InvalidInput as exc:
        raise ValueError(exc.problem) from None
    return text


def check_line(text: str) -> str:
    """Text for one line: no control character, no line break, not only blanks."""
    if not text.strip():
        raise ValueError("must not be empty")
    if not text.isprintable() and any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in text):
        raise ValueError("must be one line of text; remove line breaks and control characters")
    return text


def check_web_url(text: str) -> str:
    """An absolute http or https URL."""
    check_line(text)
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"} or " " in text:
        raise ValueError('must be an absolute http or https URL, for example "https://shop.example/login"')
    return text


def check_headers(headers: dict[str, str]) -> dict[str, str]:
    """Extra headers: names of RFC 5322 that are not ours, values of one line each."""
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} cannot be a header's name; use letters, digits and '-'")
        if name.lower() in OWN_HEADERS or name.lower().startswith("content-"):
            raise ValueError(f"{name!r} is written by Backline; remove it (cc, bcc and reply_to are fields)")
        try:
            check_line(value)
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from None
    return headers


def check_language(text: str) -> str:
    """A language tag of BCP 47, in its two commonest shapes."""
    if not re.fullmatch(r"[a-z]{2,3}(-[A-Z]{2})?", text):
        raise ValueError('must look like "en" or "pt-BR"')
    return text


def check_variables(context: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Template variables: names that a template can use."""
    for name in context:
        if not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"{name[:80]!r} cannot be a variable's name; use letters, digits and '_'")
    return context


Address = Annotated[str, Field(min_length=3, max_length=500), AfterValidator(check_address)]
Addresses = Annotated[tuple[Address, ...], Field(max_length=50)]
Line = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(check_line)]
WebUrl = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(check_web_url)]
Language = Annotated[str, Field(min_length=2, max_length=6), AfterValidator(check_language)]
Variables = Annotated[dict[str, JsonValue], Field(max_length=100), AfterValidator(check_variables)]
Headers = Annotated[
    dict[str, Annotated[str, Field(max_length=2000)]], Field(max_length=50), AfterValidator(check_headers)
]
LongText = Annotated[str, Field(min_length=1, max_length=1_000_000)]
