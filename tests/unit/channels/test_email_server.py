"""Airflow's SMTP connection, read as its own hook reads it."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from backline.channels.email.server import server_from_connection
from backline.errors import Misconfigured


@pytest.mark.parametrize(
    ("port", "extra", "security", "expected_port"),
    [
        (587, {"disable_ssl": True}, "starttls", 587),
        (465, {"disable_tls": True}, "tls", 465),
        (25, {"disable_ssl": True, "disable_tls": True}, "none", 25),
        (None, {"disable_ssl": True}, "starttls", 587),
        (None, {"disable_tls": True}, "tls", 465),
        (None, {"disable_ssl": "true", "disable_tls": "True"}, "none", 25),
        (587, {}, "starttls", 587),
        (465, {}, "tls", 465),
        (None, {}, "tls", 465),
        (2525, {}, "tls", 2525),
        (2525, {"disable_ssl": "false", "disable_tls": "0"}, "tls", 2525),
    ],
)
def test_security(port: int | None, extra: dict[str, Any], security: str, expected_port: int) -> None:
    server = server_from_connection("mail.example", port, None, None, extra)
    assert (server.security, server.port) == (security, expected_port)


def test_credentials_need_login_and_password() -> None:
    both = server_from_connection("mail.example", 587, "me", "pw", {})
    assert (both.username, both.password) == ("me", "pw")
    half = server_from_connection("mail.example", 587, "me", None, {})
    assert (half.username, half.password) == (None, None)


def test_password_is_never_shown() -> None:
    server = server_from_connection("mail.example", 587, "me", "hunter2-secret", {})
    assert "hunter2" not in repr(server)
    assert "hunter2" not in str(server)


def test_certificates_are_verified_unless_disabled() -> None:
    strict = server_from_connection("mail.example", 465, None, None, {}).tls_context()
    assert strict is not None
    assert strict.verify_mode is ssl.CERT_REQUIRED
    assert strict.check_hostname
    lax = server_from_connection("mail.example", 465, None, None, {"ssl_context": "none"}).tls_context()
    assert lax is not None
    assert lax.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("host", "extra", "words"),
    [
        (None, {}, "host"),
        ("mail.example", {"ssl_context": "maybe"}, "ssl_context"),
        ("mail.example", {"auth_type": "oauth2"}, "auth_type"),
    ],
)
def test_wrong_connection(host: str | None, extra: dict[str, Any], words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        server_from_connection(host, 25, None, None, extra)


def test_wrong_port() -> None:
    with pytest.raises(Misconfigured, match="port"):
        server_from_connection("mail.example", 70_000, None, None, {})
