"""The whole channel, from a message to the mail at the server."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest

from backline.channels.base import Attachment, Channel, EmailContent, Message
from backline.channels.email.channel import EmailChannel, PreparedEmail
from backline.channels.email.settings import EmailSettings
from backline.errors import InvalidInput, Misconfigured
from smtp_pipeline import SmtpServer
from tests.integration.channels.servers import Mailbox

CREATED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def message(recipient: str = "Ann <ann@example.com>", attempt: int = 1) -> Message:
    return Message(7, "email", recipient, {}, CREATED, attempt)


def channel(content: EmailContent, port: int = 25, **settings: Any) -> EmailChannel:
    values = {"from_address": "Shöp <shop@example.com>", "message_id_domain": "mail.example.com", **settings}
    return EmailChannel(EmailSettings.model_validate(values), SmtpServer("127.0.0.1", port, "none"), lambda _: content)


@pytest.mark.anyio
async def test_a_mail_arrives_complete(start_mail_server: Callable[..., Awaitable[Mailbox]]) -> None:
    mailbox = await start_mail_server()
    content = EmailContent(
        "Grüße",
        "line\n.dot\n..\nend",
        "<p>ü</p>",
        cc=("Bob <bob@example.com>", "ann@example.com"),
        bcc=("secret@example.com",),
        reply_to="Help <help@example.com>",
        headers={"X-Campaign": "spring"},
        attachments=(Attachment("a.txt", "text/plain", b"abc"),),
    )
    email_channel: Channel[PreparedEmail] = channel(content, mailbox.port)
    assert (email_channel.name, email_channel.connections) == ("email", 8)
    session = email_channel.session()
    receipt = await session.send(email_channel.prepare(message()))
    await session.close()
    assert receipt.provider_id == "Q1"
    (got,) = mailbox.mails
    assert got.mail_from == "shop@example.com"
    assert got.rcpt_tos == ["ann@example.com", "bob@example.com", "secret@example.com"]
    assert isinstance(got.content, bytes)
    assert got.mail_options == [f"SIZE={len(got.content)}"]
    assert b"secret@example.com" not in got.content
    read = email.message_from_bytes(got.content, policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    assert read["From"].addresses[0].display_name == "Shöp"
    assert str(read["To"]) == "Ann <ann@example.com>"
    assert str(read["Cc"]) == "Bob <bob@example.com>, ann@example.com"
    assert str(read["Reply-To"]) == "Help <help@example.com>"
    assert (read["Subject"], read["X-Campaign"], read["Bcc"]) == ("Grüße", "spring", None)
    plain = read.get_body(("plain",))
    assert plain is not None
    assert plain.get_content().replace("\r\n", "\n") == "line\n.dot\n..\nend\n"
    assert [part.get_content() for part in read.iter_attachments()] == ["abc"]


def test_the_message_id_is_the_same_in_every_attempt_and_the_timeout_grows() -> None:
    email_channel = channel(EmailContent("x", "x"), timeout_seconds=30)
    tries = [email_channel.prepare(message(attempt=attempt)) for attempt in range(1, 8)]
    assert {prepared.message_id for prepared in tries} == {"<backline.7.1767323045678901@mail.example.com>"}
    assert [round(prepared.timeout) for prepared in tries] == [30, 60, 120, 240, 480, 600, 600]


def test_a_prepared_email_does_not_show_its_body() -> None:
    assert repr(channel(EmailContent("x", "code 123456")).prepare(message())).startswith("PreparedEmail(<backline.7.")
    assert "123456" not in repr(channel(EmailContent("x", "code 123456")).prepare(message()))


@pytest.mark.parametrize(
    ("recipient", "content", "field"),
    [
        ("ann@example", EmailContent("x", "x"), "to"),
        ("ann@example.com\r\nBcc: eve@example.com", EmailContent("x", "x"), "to"),
        ("ann@example.com", EmailContent("x", "x", cc=("ok@example.com", "bad")), "cc[1]"),
        ("ann@example.com", EmailContent("x", "x", bcc=("bad",)), "bcc[0]"),
        ("ann@example.com", EmailContent("x", "x", reply_to="bad"), "reply_to"),
        ("ann@example.com", EmailContent("x\n", "x"), "subject"),
        ("ann@example.com", EmailContent("x", "x", headers={"Bcc": "eve@example.com"}), "headers.Bcc"),
        (
            "ann@example.com",
            EmailContent("x", "x", attachments=(Attachment("a.exe", "application/x-msdownload", b""),)),
            "attachments[0].content_type",
        ),
        (
            "ann@example.com",
            EmailContent("x", "x", attachments=(Attachment("a.txt", "text/plain", bytes(600_000)),) * 2),
            "attachments",
        ),
    ],
)
def test_invalid_input_names_the_field(recipient: str, content: EmailContent, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        channel(content, attachment_max_mib=1).prepare(message(recipient))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"from_address": "nobody"}, "email.from_address"), ({"message_id_domain": "a b"}, "email.message_id_domain")],
)
def test_wrong_settings_are_reported_at_once(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        channel(EmailContent("x", "x"), 25, **settings)
