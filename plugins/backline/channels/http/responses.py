"""HTTP answers, and what each one means for the message (RFC 9110 section 15).

| answer | class | why |
|---|---|---|
| 2xx | taken | |
| 429, and 503 with Retry-After | rate_limited | told to come later (RFC 6585 section 4, RFC 9110 section 10.2.3) |
| 408 | timeout | the far side waited for us |
| 425, 5xx | unknown | it may go well later |
| 401, 403 | authentication | our credentials |
| anything else | rejected | permanent; redirects are never followed |
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from backline.errors import (
    AuthenticationFailed,
    PermanentError,
    RateLimited,
    Rejected,
    RetryableError,
    TimeoutFailure,
    UnknownFailure,
)

RESPONSE_LIMIT = 4096
"""Bytes of an answer's body that are kept."""
SHOWN = 200
"""Characters of it that an error's text quotes."""


def raise_for_status(status: int, headers: Mapping[str, str], body: str) -> None:
    """Raise the error that an answer stands for, by the table above; nothing for a 2xx. `body` is cut here."""
    if 200 <= status < 300:
        return
    code, response = str(status), cut(body)
    said = " ".join(response[:SHOWN].split())
    text = f"answered {status}" + (f": {said}" if said else "")
    if (transient := _transient(status, headers)) is not None:
        wish = headers.get("Retry-After")
        raise transient(text, code=code, response=response, retry_after=None if wish is None else retry_after(wish))
    permanent: type[PermanentError] = AuthenticationFailed if status in (401, 403) else Rejected
    raise permanent(text, code=code, response=response)


def retry_after(text: str) -> float | None:
    """Seconds that a Retry-After asks to wait: a number, or a date; None if it is neither."""
    text = text.strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def cut(text: str) -> str:
    """The text, cut to RESPONSE_LIMIT bytes of UTF-8, without the NUL that the database cannot hold."""
    text = text.replace("\0", "\ufffd")
    return text.encode("utf-8", "replace")[:RESPONSE_LIMIT].decode("utf-8", "ignore")


def _transient(status: int, headers: Mapping[str, str]) -> type[RetryableError] | None:
    if status == 429 or (status == 503 and "Retry-After" in headers):
        return RateLimited
    if status == 408:
        return TimeoutFailure
    return UnknownFailure if status == 425 or status >= 500 else None
