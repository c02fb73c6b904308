"""The error class of each HTTP response."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from backline.channels.base import RESPONSE_LIMIT
from backline.channels.http import HttpResponse, retry_after
from backline.errors import BacklineError, FailureClass, PermanentError, RateLimited, Rejected, RetryableError

CLASSES = {
    301: "unknown", 302: "unknown", 308: "unknown", 400: "rejected", 401: "authentication", 402: "rejected",
    403: "authentication", 404: "rejected", 405: "rejected", 407: "authentication", 408: "timeout", 409: "rejected",
    410: "rejected", 413: "rejected", 422: "rejected", 425: "unknown", 429: "rate_limited", 451: "rejected",
    500: "unknown", 501: "unknown", 502: "network", 503: "network", 504: "timeout", 507: "resource", 599: "unknown",
}  # fmt: skip


@pytest.mark.parametrize(("status", "name"), CLASSES.items())
def test_each_status_has_its_class(status: int, name: str) -> None:
    error = HttpResponse(status, {}, "no").error("https://api.example")
    assert error.failure_class is FailureClass(name)
    assert error.code == str(status)
    assert str(error).startswith(f"https://api.example answered {status}: no")


def test_retryable_statuses() -> None:
    errors = {status: HttpResponse(status, {}, "").error("x") for status in range(400, 600)}
    retryable = {status for status, error in errors.items() if isinstance(error, RetryableError)}
    assert retryable == {408, 425, 429, *range(500, 600)}
    assert all(isinstance(errors[status], PermanentError) for status in set(range(400, 500)) - retryable)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_no_error(status: int) -> None:
    HttpResponse(status, {}, "").raise_for_status("x")


def test_a_503_with_retry_after_is_rate_limited() -> None:
    with pytest.raises(RateLimited) as caught:
        HttpResponse(503, {"Retry-After": "120"}, "").raise_for_status("x")
    assert caught.value.retry_after == 120


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 30 "}, 30.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": formatdate(1_000_060, usegmt=True), "date": formatdate(1_000_000, usegmt=True)}, 60.0),
        ({"retry-after": formatdate(1_000_000, usegmt=True), "date": formatdate(1_000_060, usegmt=True)}, 0.0),
        ({"retry-after": formatdate(1_000_000, usegmt=True)}, 0.0),
        # RFC 850's and asctime's form, both UTC, whatever this host's zone.
        ({"retry-after": "Monday, 12-Jan-70 13:47:40 GMT", "date": formatdate(1_000_000, usegmt=True)}, 60.0),
        ({"retry-after": "Mon Jan 12 13:47:40 1970", "date": formatdate(1_000_000, usegmt=True)}, 60.0),
    ],
)
def test_retry_after_in_seconds_or_as_a_date_relative_to_the_servers_clock(
    headers: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    assert retry_after(headers) == seconds


def test_a_redirects_target_is_named() -> None:
    error = HttpResponse(307, {"Location": "https://elsewhere.example/"}, "").error("https://api.example")
    assert "a redirect to 'https://elsewhere.example/'" in str(error)


def test_a_long_response_is_cut_in_the_text_and_in_the_stored_response() -> None:
    error = HttpResponse(500, {}, "ä\n" * 100_000).error("x")
    assert len(str(error)) < 400
    assert "\n" not in str(error)
    assert len(error.response.encode()) <= RESPONSE_LIMIT


def test_a_known_error_format_overrides_the_status() -> None:
    error = HttpResponse(403, {}, "{...}").error("x", detail="not there (code 21408)", error_class=Rejected)
    assert isinstance(error, Rejected)
    assert (str(error), error.response) == ("x answered 403: not there (code 21408)", "not there (code 21408)")
    assert isinstance(HttpResponse(429, {}, "").error("x", error_class=None), BacklineError)
