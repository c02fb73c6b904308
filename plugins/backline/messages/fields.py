"""Field types for payloads. Their validators raise ValueError with the fix in the text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import cache
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, JsonValue, PlainValidator, WithJsonSchema

from backline.channels.recipients import parse_address
from backline.errors import InvalidInput
from backline.preferences.quiet_hours import find_time_zone

HEADER_NAME = re.compile(r"[!#-9;-~]{1,70}")
"""A header's name: printable ASCII but no space and no colon (RFC 5322, section 2.2)."""

MAX_TIMESTAMP_LENGTH = 40
DATE_LENGTH = len("2030-01-31")

# fmt: off
RESERVED_HEADERS = frozenset({
    "from", "sender", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "mime-version",
    "return-path", "received", "dkim-signature", "auto-submitted",
})
# fmt: on
"""Headers that the channel or a mail server writes."""


def matching(pattern: str, problem: str) -> Callable[[str], str]:
    """A validator for text that matches the pattern as a whole; `problem` is the text of its ValueError."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(problem)
        return text

    return check


def check_address(text: str) -> str:
    """One email address, with or without a display name."""
    try:
        parse_address(text, "address")
    except InvalidInput as exc:
        raise ValueError(exc.problem) from None
    return text


def check_line(text: str) -> str:
    """One line of text: no control character, no line break, not blank."""
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


def check_https_url(text: str) -> str:
    """An absolute https URL, for links that recipients must be able to trust."""
    check_web_url(text)
    if not text.startswith("https://"):
        raise ValueError('must be an https URL, for example "https://shop.example/orders/1042"')
    return text


def check_text(text: str) -> str:
    """Text of several lines: no control characters except line breaks and tabs, not blank."""
    if not text.strip():
        raise ValueError("must not be empty")
    if any(unicodedata.category(char) == "Cc" and char not in "\r\n\t" for char in text):
        raise ValueError("must be text; remove control characters other than line breaks")
    return text


@cache
def _currencies() -> frozenset[str]:
    # Imported here: only payloads with an amount need babel.
    from babel.numbers import list_currencies

    return frozenset(list_currencies())


def check_currency(text: str) -> str:
    """An ISO 4217 currency code."""
    if text not in _currencies():
        raise ValueError('must be a currency\'s code of ISO 4217 like "EUR" or "USD"')
    return text


def check_time_zone(text: str) -> str:
    """A time zone's name as the IANA database has it, from its name in any case."""
    if (zone := find_time_zone(text)) is None:
        raise ValueError('must be a time zone like "Europe/Berlin" (IANA)')
    return zone.key


FIRST_TIME = datetime(1, 1, 2, tzinfo=UTC)
LAST_TIME = datetime(9999, 12, 30, tzinfo=UTC)
"""The times that Python and PostgreSQL can show in every time zone; the outbox's constraint has the same."""


def parse_timestamp(value: object) -> datetime:
    """A point in time, from text with a zone (RFC 3339); ValueError otherwise."""
    problem = 'must be a time like "2030-01-31T12:00:00Z" (RFC 3339)'
    if not isinstance(value, str) or len(value) > MAX_TIMESTAMP_LENGTH:
        raise ValueError(problem)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(problem) from None
    if moment.tzinfo is None:
        raise ValueError('needs a time zone: add "Z" or an offset like "+02:00"')
    if not FIRST_TIME <= moment <= LAST_TIME:
        raise ValueError("must be between the years 1 and 9999 in every time zone")
    return moment


def parse_date(value: object) -> date:
    """A calendar day, from text (RFC 3339 full-date); ValueError otherwise."""
    problem = 'must be a day like "2030-01-31"'
    if not isinstance(value, str) or len(value) != DATE_LENGTH:
        raise ValueError(problem)
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError(problem) from None


def check_headers(headers: dict[str, str]) -> dict[str, str]:
    """Extra headers: RFC 5322 names that are not reserved, values of one line each."""
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} cannot be a header's name; use letters, digits and '-'")
        if name.lower() in RESERVED_HEADERS or name.lower().startswith("content-"):
            raise ValueError(f"{name!r} is written by Backline; remove it (cc, bcc and reply_to are fields)")
        try:
            check_line(value)
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from None
    return headers


def check_variables(context: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Template variables: names that a template can refer to."""
    for name in context:
        if not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"{name[:80]!r} cannot be a variable's name; use letters, digits and '_'")
    return context


Address = Annotated[str, Field(min_length=3, max_length=500), AfterValidator(check_address)]
Addresses = Annotated[tuple[Address, ...], Field(max_length=50)]
Line = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(check_line)]
WebUrl = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(check_web_url)]
check_language = matching(r"[a-z]{2,3}(-[A-Z]{2})?", 'must look like "en" or "pt-BR"')
Language = Annotated[str, Field(min_length=2, max_length=6), AfterValidator(check_language)]
"""A BCP 47 language tag with an optional region."""
Variables = Annotated[dict[str, JsonValue], Field(max_length=100), AfterValidator(check_variables)]
Headers = Annotated[
    dict[str, Annotated[str, Field(max_length=2000)]], Field(max_length=50), AfterValidator(check_headers)
]
LongText = Annotated[str, Field(min_length=1, max_length=1_000_000)]
Name = Annotated[Line, Field(max_length=200)]
Paragraph = Annotated[str, Field(min_length=1, max_length=5000), AfterValidator(check_text)]
Lines = Annotated[tuple[Line, ...], Field(min_length=1, max_length=8)]
HttpsUrl = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(check_https_url)]
check_token = matching("[!-~]+", "must be ASCII without blanks, such as the output of secrets.token_urlsafe()")
Token = Annotated[str, Field(min_length=8, max_length=500), AfterValidator(check_token)]
"""A secret that becomes part of a link."""
MinorUnits = Annotated[int, Field(ge=0, le=1_000_000_000_000)]
"""An amount of money in its currency's smallest unit: cents, pence, whole yen."""
Currency = Annotated[str, Field(min_length=3, max_length=3), AfterValidator(check_currency)]
TimeZone = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(check_time_zone)]
Timestamp = Annotated[
    datetime,
    PlainValidator(parse_timestamp),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": MAX_TIMESTAMP_LENGTH}),
]
Day = Annotated[
    date, PlainValidator(parse_date), WithJsonSchema({"type": "string", "format": "date", "maxLength": DATE_LENGTH})
]
