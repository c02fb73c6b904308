"""HTTP responses, and the error class of each (RFC 9110 section 15, RFC 6585, RFC 8470).

The first match applies:

| status | class | why |
|---|---|---|
| 2xx | | accepted |
| 3xx | unknown | redirects are not followed: they could lead anywhere |
| 429, 503 with Retry-After | rate_limited | the server asks to retry later |
| 408, 504 | timeout | the server or a gateway timed out |
| 502, 503 | network | the server behind a gateway is unreachable |
| 507 | resource | out of storage |
| 425, any other 5xx | unknown | a server error, which may be temporary |
| 401, 403, 407 | authentication | our credentials are wrong or missing |
| any other 4xx | rejected | our request is wrong, and a retry would repeat it |
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from backline.channels.base import truncate
from backline.errors import (
    AuthenticationFailed,
    BacklineError,
    NetworkFailure,
    RateLimited,
    Rejected,
    ResourceExhausted,
    RetryableError,
    TimeoutFailure,
    UnknownFailure,
)

MAX_DETAIL_CHARACTERS = 300
"""Characters of a response in an error's text; its `response` holds more."""

_ERROR_CLASSES: dict[int, type[BacklineError]] = {
    401: AuthenticationFailed,
    403: AuthenticationFailed,
    407: AuthenticationFailed,
    408: TimeoutFailure,
    425: UnknownFailure,
    429: RateLimited,
    502: NetworkFailure,
    503: NetworkFailure,
    504: TimeoutFailure,
    507: ResourceExhausted,
}


def raise_for_status(status: int, headers: Mapping[str, str], body: str, *, server: str = "the server") -> None:
    """Raise the error for a response, by the table above; none for 2xx."""
    if not 200 <= status < 300:
        raise error_from_response(status, headers, body, server=server)


def error_from_response(
    status: int,
    headers: Mapping[str, str],
    body: str,
    *,
    server: str,
    detail: str = "",
    error_class: type[BacklineError] | None = None,
) -> BacklineError:
    """The error for a response other than 2xx.

    `detail` is the server's error message, if the body has a known format; `error_class` overrides the status's class.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    wait = retry_after(lower)
    error_class = error_class or error_class_of(status, has_retry_after=wait is not None)
    message = detail or " ".join(body.split())[:MAX_DETAIL_CHARACTERS]
    text = f"{server} answered {status}" + (f": {message}" if message else "")
    if 300 <= status < 400:
        text += f", a redirect to {lower.get('location', 'nowhere')!r}; redirects are not followed: give the final URL"
    if issubclass(error_class, RetryableError):
        return error_class(text, code=str(status), response=truncate(detail or body), retry_after=wait)
    return error_class(text, code=str(status), response=truncate(detail or body))


def error_class_of(status: int, *, has_retry_after: bool = False) -> type[BacklineError]:
    """The class of a status other than 2xx; `has_retry_after`: whether the response has a Retry-After."""
    if status == 503 and has_retry_after:
        return RateLimited
    if status in _ERROR_CLASSES:
        return _ERROR_CLASSES[status]
    return Rejected if 400 <= status < 500 else UnknownFailure


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After (RFC 9110 section 10.2.3); None without a readable one.

    A date is compared with the response's own Date header, so the clocks need not agree. Header names are in lower case.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:12])
    until = _parse_http_date(text)
    if until is None:
        return None
    return max(0.0, until - (_parse_http_date(headers.get("date", "")) or time.time()))


def json_object(text: str) -> dict[str, Any]:
    """The JSON object of a response's body; empty if it is anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _parse_http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
