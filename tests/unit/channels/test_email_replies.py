"""The error class of each SMTP reply."""

from __future__ import annotations

import pytest

from backline.channels.base import RESPONSE_LIMIT
from backline.channels.email.replies import error_from_reply
from backline.errors import FailureClass, RetryableError
from smtp_pipeline import Reply, Stage


@pytest.mark.parametrize(
    ("code", "text", "stage", "expected"),
    [
        # Permanent.
        (550, "5.1.1 no such user", Stage.RCPT, "rejected"),
        (550, "5.7.1 relaying denied", Stage.RCPT, "rejected"),
        (554, "5.7.1 spam", Stage.BODY, "rejected"),
        (552, "5.3.4 too big", Stage.MAIL, "rejected"),
        (556, "5.1.10 null MX", Stage.RCPT, "rejected"),
        (501, "syntax", Stage.MAIL, "rejected"),
        # Credentials.
        (535, "5.7.8 bad password", Stage.AUTH, "authentication"),
        (534, "5.7.9 mechanism too weak", Stage.AUTH, "authentication"),
        (504, "unknown mechanism", Stage.AUTH, "authentication"),
        (530, "5.7.0 authentication required", Stage.MAIL, "authentication"),
        (550, "5.7.8 sign in first", Stage.MAIL, "authentication"),
        (454, "4.7.0 temporary authentication failure", Stage.AUTH, "network"),
        # About the connection, not the message.
        (554, "5.7.1 your host is blocked", Stage.GREETING, "network"),
        (421, "too many connections", Stage.GREETING, "rate_limited"),
        (454, "TLS not available", Stage.STARTTLS, "network"),
        (500, "what?", Stage.EHLO, "network"),
        # Temporary.
        (421, "4.7.0 try again later", Stage.MAIL, "rate_limited"),
        (421, "4.3.2 shutting down", Stage.MAIL, "network"),
        (421, "closing", Stage.BODY, "network"),
        (450, "4.7.1 greylisted", Stage.RCPT, "rate_limited"),
        (450, "Rate limit exceeded", Stage.RCPT, "rate_limited"),
        (450, "4.2.1 receiving mail too quickly", Stage.RCPT, "rate_limited"),
        (451, "Greylisting in action", Stage.RCPT, "rate_limited"),
        (452, "4.2.2 mailbox full", Stage.RCPT, "resource"),
        (452, "4.3.1 insufficient storage", Stage.BODY, "resource"),
        (452, "out of space", Stage.MAIL, "resource"),
        (451, "4.4.1 no route", Stage.RCPT, "network"),
        (454, "4.7.0 something is down", Stage.MAIL, "unknown"),
        (451, "4.3.0 local error", Stage.BODY, "unknown"),
        (450, "mailbox busy", Stage.RCPT, "unknown"),
        # No answer to what was asked.
        (250, "ok", Stage.DATA, "unknown"),
        (354, "go on", Stage.MAIL, "unknown"),
    ],
)
def test_class(code: int, text: str, stage: Stage, expected: str) -> None:
    error = error_from_reply(Reply(code, text), stage, "mail.example:25", "ann@example.com")
    assert error.failure_class == FailureClass(expected)
    assert isinstance(error, RetryableError) == (expected not in {"rejected", "authentication"})


def test_the_error_names_server_stage_recipient_codes_and_text() -> None:
    error = error_from_reply(Reply(550, "5.1.1 no such user"), Stage.RCPT, "mail.example:25", "ann@example.com")
    assert error.code == "550 5.1.1"
    assert error.response == "5.1.1 no such user"
    assert str(error) == "mail.example:25 answered RCPT TO for ann@example.com with '550 5.1.1 no such user'"


def test_code_without_enhanced_status() -> None:
    assert error_from_reply(Reply(550, "no"), Stage.RCPT, "s").code == "550"


def test_too_large_names_the_fix() -> None:
    assert "make the attachments smaller" in str(error_from_reply(Reply(552, "5.3.4 limit exceeded"), Stage.BODY, "s"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("4.7.1 greylisted, try again in 300 seconds", 300),
        ("4.7.1 wait 5 minutes", 300),
        ("4.7.1 come back in 90s", 90),
        ("4.7.1 later", None),
    ],
)
def test_retry_after_from_the_servers_text(text: str, seconds: float | None) -> None:
    error = error_from_reply(Reply(450, text), Stage.RCPT, "s")
    assert isinstance(error, RetryableError)
    assert error.retry_after == seconds


def test_a_long_reply_is_cut() -> None:
    error = error_from_reply(Reply(550, "é" * 10_000), Stage.RCPT, "s")
    assert len(error.response.encode()) == RESPONSE_LIMIT
