"""An Airflow connection, read as an HTTP gateway."""

from __future__ import annotations

from typing import Any

import pytest

from backline.channels.base import attempt_timeout
from backline.channels.http import HttpGateway, HttpRequest, proxy_for
from backline.errors import Misconfigured


def read(host: str | None, **given: Any) -> HttpGateway:
    values = {"schema": None, "port": None, "login": None, "password": None, "extra": {}, **given}
    return HttpGateway.from_connection("sms_gateway", host=host, **values)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("host", "given", "url"),
    [
        ("api.twilio.com", {}, "https://api.twilio.com"),
        ("api.twilio.com", {"schema": "http"}, "http://api.twilio.com"),
        ("https://api.twilio.com/", {"schema": "http"}, "https://api.twilio.com"),
        ("http://127.0.0.1:8082/sms/", {}, "http://127.0.0.1:8082/sms"),
        ("http://127.0.0.1", {"port": 8082}, "http://127.0.0.1:8082"),
        ("http://127.0.0.1:1", {"port": 8082}, "http://127.0.0.1:1"),
        ("https://[::1]:8443", {}, "https://[::1]:8443"),
    ],
)
def test_the_host_may_be_a_url(host: str, given: dict[str, Any], url: str) -> None:
    assert read(host, **given).url == url


@pytest.mark.parametrize(
    ("host", "word"),
    [
        (None, "has no host"),
        ("", "has no host"),
        ("ftp://api.example", "http or https"),
        ("https://", "http or https"),
        ("https://me:pw@api.example", "login and password"),
        ("https://api.example?x=1", "without user"),
        ("https://api.example:port", "not a URL"),
    ],
)
def test_an_invalid_connection_is_refused_with_the_reason(host: str | None, word: str) -> None:
    with pytest.raises(Misconfigured, match=word) as caught:
        read(host)
    assert "'sms_gateway'" in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("verify", "verified"), [(True, True), (False, False), ("false", False), ("no", False), (1, True)]
)
def test_certificates_are_verified_unless_disabled(verify: object, *, verified: bool) -> None:
    assert read("https://api.example").verify_tls
    assert read("https://api.example", extra={"verify": verify}).verify_tls is verified


def test_credentials_are_never_shown() -> None:
    gateway = read("https://api.example", login="AC1", password="s3cret", extra={"service_account": "s3cret"})
    assert gateway.basic_auth() == "Basic QUMxOnMzY3JldA=="
    assert "s3cret" not in repr(gateway) + str(gateway)
    with pytest.raises(Misconfigured, match="needs a login and a password"):
        read("https://api.example", login="AC1").basic_auth()


def test_the_environments_proxy_is_used_except_for_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("https://api.example").proxy is None
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1,.internal.example")
    assert proxy_for("https", "api.example") == read("https://api.example").proxy == "http://proxy.example:3128"
    assert proxy_for("http", "api.example") is None
    assert proxy_for("https", "127.0.0.1") is None
    assert proxy_for("https", "a.internal.example") is None


def test_the_timeout_doubles_up_to_two_minutes_and_never_shrinks() -> None:
    assert [attempt_timeout(15, attempt) for attempt in range(1, 6)] == [15, 30, 60, 120, 120]
    assert attempt_timeout(120, 3) == 120


def test_the_repr_of_a_request_hides_its_content() -> None:
    request = HttpRequest("POST", "https://api.example/x", {"Authorization": "s3cret"}, b"s3cret", 5)
    assert repr(request) == "HttpRequest(POST https://api.example/x, 6 bytes)"
