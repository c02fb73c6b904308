"""HTTP answers, and what each one means for the message (RFC 9110 section 15, RFC 6585, RFC 8470).

First match wins:

| status | class | why |
|---|---|---|
| 2xx | | taken |
| 3xx | unknown | redirects are not followed: whoever answers could send us anywhere |
| 429, 503 with Retry-After | rate_limited | asked to come back later |
| 408, 504 | timeout | somebody gave up waiting |
| 502, 503 | network | nobody there behind it |
| 507 | resource | out of storage |
| 425, any other 5xx | unknown | its fault, and may pass |
| 401, 403, 407 | authentication | our credentials, or that there are none |
| any other 4xx | rejected | our request, which stays as it is |
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

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
"""Of an answer in an error's text; its `response` holds more."""

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


def raise_for_status(status: int, headers: Mapping[str, str], body: str, *, server: str = "the far side") -> None:
    """Raise the error that an answer stands for, by the table above; nothing for 2xx."""
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
    """The error of an answer other than 2xx.

    `said` is what the answer says in words, if it has a form that is known; `kind` its class, if that form tells more
    than the status.
    """
    named = {name.lower(): value for name, value in headers.items()}
    wait = retry_after(named)
    error_class = error_class or error_class_of(status, asked_to_wait=wait is not None)
    words = detail or " ".join(body.split())[:MAX_DETAIL_CHARACTERS]
    text = f"{server} answered {status}" + (f": {words}" if words else "")
    if 300 <= status < 400:
        text += (
            f"; it leads to {named.get('location', 'no place')!r}, and redirects are not followed: give the final URL"
        )
    if issubclass(error_class, RetryableError):
        return error_class(text, code=str(status), response=truncate(detail or body), retry_after=wait)
    return error_class(text, code=str(status), response=truncate(detail or body))


def error_class_of(status: int, *, asked_to_wait: bool = False) -> type[BacklineError]:
    """The class of a status other than 2xx; `asked_to_wait`: whether the answer has a Retry-After."""
    if status == 503 and asked_to_wait:
        return RateLimited
    if status in _ERROR_CLASSES:
        return _ERROR_CLASSES[status]
    return Rejected if 400 <= status < 500 else UnknownFailure


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After (RFC 9110 section 10.2.3); None when there is none that can be read.

    A moment is counted from the answer's own Date, so that no two clocks need agree. `headers` by lower-case names.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:12])
    until = _parse_http_date(text)
    if until is None:
        return None
    return max(0.0, until - (_parse_http_date(headers.get("date", "")) or time.time()))


def _parse_http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
