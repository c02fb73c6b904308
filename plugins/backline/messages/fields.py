"""Field types for payloads. Their validators raise ValueError with the fix in the text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import cache
from math import isfinite
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, JsonValue, PlainValidator, WithJsonSchema
from pydantic.fields import FieldInfo

from backline.channels.email.headers import RESERVED_HEADERS, check_header
from backline.channels.recipients import ADDRESS_PATTERN, parse_address
from backline.errors import InvalidInput
from backline.preferences.quiet_hours import find_time_zone
from backline.rendering import catalog
from backline.validation_errors import field_error, field_path

MAX_TIMESTAMP_LENGTH = 40
DATE_LENGTH = len("2030-01-31")
ANY_JSON = "x-any-json"
"""A keyword of our own in the JSON schema of a field that takes any JSON: `rules` bounds its depth and digits in SQL."""
SQL_PATTERN = "x-sql-pattern"
"""A keyword of our own: PostgreSQL's regular expression for texts that the field's validator accepts."""
SQL_KEYS = "x-sql-keys"
"""The same for the names in an object that takes any."""
SQL_EXCLUDED_KEYS = "x-sql-excluded-keys"
"""Names that such an object cannot have."""
SQL_MAX_LENGTH = "x-sql-max-length"
"""Fewer characters than `maxLength`, where the validator looks closer than SQL can."""
SQL_CHOICES = "x-sql-choices"
"""The list that has the texts that the validator accepts: `sql_checks.CHOICES`."""
SQL_LIMIT = "x-sql-limit"
"""The name of the limits of a text that depend on the settings: `sql_checks.TEXT_LIMITS`."""
SQL_RULES = "x-sql-rules"
"""A model's rules about several fields, as jsonpath, by the field to name in the error; `@` is the object."""
SQL_KEYWORDS = frozenset(
    {ANY_JSON, SQL_PATTERN, SQL_KEYS, SQL_EXCLUDED_KEYS, SQL_MAX_LENGTH, SQL_CHOICES, SQL_LIMIT, SQL_RULES}
)
MAX_DEPTH = 100
"""Levels of objects and arrays within a field that takes any JSON; parsers stop at about 200."""
MAX_EXPONENT = 200
"""Numbers in such a field are 0, or between 1e-200 and 1e200, without their sign: well within a double's range."""
_TOO_LARGE: int = 10**MAX_EXPONENT
MAX_DIGITS = 2000
"""Digits of such a number."""


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


_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def check_text(text: str) -> str:
    """Text of several lines: no control characters except line breaks and tabs, not blank."""
    if not text.strip():
        raise ValueError("must not be empty")
    if _CONTROL_CHARACTER.search(text):
        raise ValueError("must be text; remove control characters other than line breaks")
    return text


@cache
def currencies() -> frozenset[str]:
    """The currencies' codes of ISO 4217."""
    # Imported here: only payloads with an amount need babel.
    from babel.numbers import list_currencies

    return frozenset(list_currencies())


def check_currency(text: str) -> str:
    """An ISO 4217 currency code."""
    if text not in currencies():
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
    """Extra headers: RFC 5322 names that are not reserved, values of one line each that fit into an email's lines."""
    for name, value in headers.items():
        if problem := check_header(name, value):
            raise ValueError(problem)
    return headers


def check_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """JSON of any form, within limits that all parsers keep."""
    _check_members(value, ())
    return value


def _check_members(value: dict[str, JsonValue] | list[JsonValue], path: tuple[int | str, ...]) -> None:
    if len(path) > MAX_DEPTH:
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep; make it flatter")
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, str):
            continue
        if isinstance(item, dict | list):
            _check_members(item, (*path, name))
        elif item is not None and not -_TOO_LARGE < item < _TOO_LARGE:
            raise field_error(field_path((*path, name)), _number_problem(item))


def _number_problem(number: float) -> str:
    if isinstance(number, float) and not isfinite(number):
        return f"must be a finite number of at most {MAX_EXPONENT} digits"
    return f"has more than {MAX_EXPONENT} digits; give a smaller number, or text"


def check_variables(context: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Template variables: none with the name of a template constant. One that no template can use does no harm."""
    if taken := catalog.CONSTANTS & context.keys():
        raise field_error(min(taken), "is a name that every template has; give it another name")
    return context


# What SQL accepts of the texts that a validator accepts. Literal characters: classes would depend on the database's locale.
_CONTROL = "\x01-\x1f\x7f-\x9f\u2028\u2029"
_SPACE = "\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LINE_PATTERN = f"^[^{_CONTROL}]*[^{_CONTROL}{_SPACE}][^{_CONTROL}]*$"
_NOT_TEXT = "\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
TEXT_PATTERN = f"^[^{_NOT_TEXT}]*[^{_NOT_TEXT}{_SPACE}][^{_NOT_TEXT}]*$"
_HOST = "[A-Za-z0-9._\u00df-\u00f6\u00f8-\u00ff\u0430-\u044f\u4e00-\u9fa5-]+"
_URL_REST = f"{_HOST}(:[0-9]+)?([/?#][^{_CONTROL}{_SPACE}]*)?$"
_DAYS = "(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31"
_DATE = f"(?!0000|0001|9999)[0-9]{{4}}-((0[1-9]|1[0-2])-{_DAYS})"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,6})?)?(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])"


def in_sql(value: str | int | list[str], keyword: str = SQL_PATTERN) -> FieldInfo:
    """Metadata of a field: what SQL accepts of it, by default as PostgreSQL's regular expression."""
    found: FieldInfo = Field(json_schema_extra={keyword: value})  # type: ignore[dict-item]
    return found


def one_of(*names: str) -> str:
    """A rule for SQL_RULES: one of the fields is given."""
    return "(" + " || ".join(f"{_given(name)}" for name in names) + ")"


def only_one_of(name: str, other: str) -> str:
    """A rule for SQL_RULES: one of the two fields is given, not both."""
    return f"({_given(name)} && !{_given(other)} || !{_given(name)} && {_given(other)})"


def needs(name: str, other: str) -> str:
    """A rule for SQL_RULES: with the one field the other is given."""
    return f"(!{_given(name)} || {_given(other)})"


def _given(name: str) -> str:
    return f"exists(@.{name} ? (@ != null))"


Address = Annotated[
    str, Field(min_length=3, max_length=500), AfterValidator(check_address), in_sql(f"^(?:{ADDRESS_PATTERN})$")
]
Addresses = Annotated[tuple[Address, ...], Field(max_length=50)]
Line = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(check_line), in_sql(LINE_PATTERN)]
WebUrl = Annotated[
    str, Field(min_length=1, max_length=2000), AfterValidator(check_web_url), in_sql(f"^https?://{_URL_REST}")
]
_LANGUAGE = "[a-z]{2,3}(-[A-Z]{2})?"
check_language = matching(_LANGUAGE, 'must look like "en" or "pt-BR"')
Language = Annotated[str, Field(min_length=2, max_length=6), AfterValidator(check_language), in_sql(f"^{_LANGUAGE}$")]
"""A BCP 47 language tag with an optional region."""
_any_json = Field(json_schema_extra={ANY_JSON: True})
JsonObject = Annotated[dict[str, JsonValue], _any_json, AfterValidator(check_json)]
Variables = Annotated[
    dict[str, JsonValue], Field(max_length=100), _any_json, AfterValidator(check_json), AfterValidator(check_variables),
    in_sql(sorted(catalog.CONSTANTS), SQL_EXCLUDED_KEYS),
]  # fmt: skip
Headers = Annotated[
    dict[str, Annotated[str, Field(max_length=2000), in_sql(LINE_PATTERN), in_sql(900, SQL_MAX_LENGTH)]],
    Field(max_length=50),
    AfterValidator(check_headers),
    in_sql(f"^(?!(?:{'|'.join(sorted(RESERVED_HEADERS))})$|content-)[!-9;-~]{{1,70}}$", SQL_KEYS),
]
LongText = Annotated[str, Field(min_length=1, max_length=1_000_000)]
Name = Annotated[Line, Field(max_length=200)]
Paragraph = Annotated[str, Field(min_length=1, max_length=5000), AfterValidator(check_text), in_sql(TEXT_PATTERN)]
Lines = Annotated[tuple[Line, ...], Field(min_length=1, max_length=8)]
HttpsUrl = Annotated[
    str, Field(min_length=1, max_length=2000), AfterValidator(check_https_url), in_sql(f"^https://{_URL_REST}")
]
check_token = matching("[!-~]+", "must be ASCII without blanks, such as the output of secrets.token_urlsafe()")
Token = Annotated[str, Field(min_length=8, max_length=500), AfterValidator(check_token)]
"""A secret that becomes part of a link."""
MinorUnits = Annotated[int, Field(ge=0, le=1_000_000_000_000)]
"""An amount of money in its currency's smallest unit: cents, pence, whole yen."""
Currency = Annotated[
    str, Field(min_length=3, max_length=3), AfterValidator(check_currency), in_sql("currencies", SQL_CHOICES)
]
TimeZone = Annotated[
    str, Field(min_length=1, max_length=60), AfterValidator(check_time_zone), in_sql("time_zones", SQL_CHOICES)
]
Timestamp = Annotated[
    datetime,
    PlainValidator(parse_timestamp),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "maxLength": MAX_TIMESTAMP_LENGTH,
            SQL_PATTERN: f"^{_DATE}[T ]{_TIME}$",
        }
    ),
]
Day = Annotated[
    date,
    PlainValidator(parse_date),
    WithJsonSchema({"type": "string", "format": "date", "maxLength": DATE_LENGTH, SQL_PATTERN: f"^{_DATE}$"}),
]
