"""The SMTP session against real servers: what they receive, and the error of each fault."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable

import pytest

from backline.channels.base import Receipt
from backline.channels.email.channel import EmailSession
from backline.errors import (
    AuthenticationFailed,
    BacklineError,
    NetworkFailure,
    RateLimited,
    Rejected,
    ResourceExhausted,
    TimeoutFailure,
    UnknownFailure,
)
from smtp_pipeline import SmtpServer
from tests.integration.channels.servers import (
    Mailbox,
    ScriptedConnection,
    authenticate,
    prepared_email,
    scripted_server,
)

pytestmark = pytest.mark.anyio
Mail = Callable[..., Awaitable[Mailbox]]


def plain_session(port: int, **options: object) -> EmailSession:
    return session(SmtpServer("127.0.0.1", port, "none", **options))  # type: ignore[arg-type]


def session(server: SmtpServer) -> EmailSession:
    return EmailSession(server, server.tls_context())


@pytest.mark.parametrize("pipelining", [True, False])
async def test_many_messages_over_one_connection(start_mail_server: Mail, *, pipelining: bool) -> None:
    mailbox = await start_mail_server(pipelining=pipelining)
    sender = plain_session(mailbox.port)
    receipts = [
        await sender.send(prepared_email(f"user{n}@example.com", body=b"Subject: %d\r\n\r\nx\r\n" % n))
        for n in range(5)
    ]
    await sender.close()
    assert mailbox.connections == 1
    assert [start_mail_server.rcpt_tos for start_mail_server in mailbox.mails] == [
        [f"user{n}@example.com"] for n in range(5)
    ]
    assert [start_mail_server.content for start_mail_server in mailbox.mails] == [
        b"Subject: %d\r\n\r\nx\r\n" % n for n in range(5)
    ]
    assert {start_mail_server.mail_from for start_mail_server in mailbox.mails} == {"shop@example.com"}
    assert [receipt.provider_id for receipt in receipts] == ["Q1", "Q2", "Q3", "Q4", "Q5"]
    assert receipts[0].code == "250 2.0.0"
    assert receipts[0].response == "2.0.0 Ok: queued as Q1"
    assert mailbox.mails[0].mail_options == [f"SIZE={len(mailbox.mails[0].content or b'')}"]


async def test_a_leading_dot_arrives(start_mail_server: Mail) -> None:
    mailbox = await start_mail_server()
    sender = plain_session(mailbox.port)
    await sender.send(prepared_email())
    await sender.close()
    assert isinstance(mailbox.mails[0].content, bytes)
    assert mailbox.mails[0].content.endswith(b"hello\r\n.dot\r\n")


@pytest.mark.parametrize("pipelining", [True, False])
async def test_refused_cc_does_not_stop_the_others(start_mail_server: Mail, *, pipelining: bool) -> None:
    mailbox = await start_mail_server(pipelining=pipelining)
    mailbox.scripted_replies["gone@example.com"] = ["550 5.1.1 no such user"]
    sender = plain_session(mailbox.port)
    receipt = await sender.send(prepared_email("ann@example.com", "gone@example.com", "bob@example.com"))
    await sender.close()
    assert mailbox.mails[0].rcpt_tos == ["ann@example.com", "bob@example.com"]
    assert receipt.refused_recipients == (("gone@example.com", "550 5.1.1 no such user"),)


@pytest.mark.parametrize("pipelining", [True, False])
async def test_a_refused_recipient_stops_the_message_and_keeps_the_connection(
    start_mail_server: Mail, *, pipelining: bool
) -> None:
    mailbox = await start_mail_server(pipelining=pipelining)
    mailbox.scripted_replies["ann@example.com"] = ["550 5.1.1 no such user"]
    sender = plain_session(mailbox.port)
    with pytest.raises(Rejected) as caught:
        await sender.send(prepared_email("ann@example.com", "bob@example.com"))
    assert caught.value.code == "550 5.1.1"
    assert mailbox.mails == []
    await sender.send(prepared_email("carl@example.com"))
    await sender.close()
    assert [start_mail_server.rcpt_tos for start_mail_server in mailbox.mails] == [["carl@example.com"]]
    assert mailbox.connections == 1


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("550 5.7.1 no", Rejected),
        ("451 4.3.0 local trouble", UnknownFailure),
        ("450 4.7.1 greylisted, try in 60 seconds", RateLimited),
        ("452 4.3.1 disk full", ResourceExhausted),
        ("421 4.3.2 going down", NetworkFailure),
    ],
)
async def test_refusal_at_each_command(
    start_mail_server: Mail, command: str, answer: str, error: type[BacklineError], *, pipelining: bool
) -> None:
    mailbox = await start_mail_server(pipelining=pipelining)
    sender = plain_session(mailbox.port)
    mailbox.scripted_replies[command] = [answer]
    with pytest.raises(error) as caught:
        await sender.send(prepared_email())
    assert type(caught.value) is error
    assert caught.value.code == " ".join(answer.split()[:2])
    assert mailbox.mails == []
    await sender.send(prepared_email())
    await sender.close()
    assert len(mailbox.mails) == 1


async def test_354_after_a_refused_recipient_is_answered_with_an_empty_message() -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.greet("PIPELINING")
        for answer in ("250 ok", "550 5.1.1 unknown", "354 go on"):
            await line.receive()
            await line.send(answer)
        assert await line.receive() == b".\r\n"
        await line.send("554 5.5.1 no valid recipients")
        assert await line.receive() == b"RSET\r\n"
        await line.send("250 ok")
        await line.accept_message()

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port)
        with pytest.raises(Rejected, match="unknown"):
            await sender.send(prepared_email())
        assert (await sender.send(prepared_email())).code == "250 2.0.0"
        await sender.close()
        assert script.connections == 1


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()])
async def test_data_refused_leaves_a_clean_connection(extensions: tuple[str, ...]) -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.greet(*extensions)
        for answer in ("250 ok", "250 ok", "451 4.3.0 not now"):
            await line.receive()
            await line.send(answer)
        assert await line.receive() == b"RSET\r\n"
        await line.send("250 ok")
        await line.accept_message()

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port)
        with pytest.raises(UnknownFailure, match="answered DATA with '451"):
            await sender.send(prepared_email())
        assert (await sender.send(prepared_email())).code == "250 2.0.0"
        await sender.close()
        assert script.connections == 1


@pytest.mark.parametrize("farewell", ["421 4.4.2 idle for too long", ""])
async def test_idle_connection_closed_by_the_server_is_replaced_within_the_send(farewell: str) -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.greet("PIPELINING")
        await line.accept_message()
        if line.number == 1 and farewell:
            await line.send(farewell)

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port)
        await sender.send(prepared_email())
        await sender.send(prepared_email())
        await sender.close()
        assert script.connections == 2


async def test_connection_that_breaks_at_the_envelope_is_replaced_within_the_send() -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.greet("PIPELINING")
        await line.accept_message()
        await line.receive()
        if line.number == 2:
            await line.send("250 ok")

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port)
        await sender.send(prepared_email())
        await sender.send(prepared_email())
        await sender.close()
        assert script.connections == 2


@pytest.mark.parametrize("messages_before", [0, 1])
async def test_connection_that_breaks_after_the_final_dot_is_not_repeated(messages_before: int) -> None:
    bodies = 0

    async def dialogue(line: ScriptedConnection) -> None:
        nonlocal bodies
        await line.greet("PIPELINING")
        for _ in range(messages_before):
            await line.accept_message()
        for answer in ("250 ok", "250 ok", "354 go on"):
            await line.receive()
            await line.send(answer)
        await line.receive(b"\r\n.\r\n")
        bodies += 1

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port)
        for _ in range(messages_before):
            await sender.send(prepared_email())
        with pytest.raises(NetworkFailure, match="may have accepted the message"):
            await sender.send(prepared_email())
        await sender.close()
        assert (bodies, script.connections) == (1, 1)


async def test_slow_server_is_a_timeout_and_its_connection_is_not_used_again(start_mail_server: Mail) -> None:
    mailbox = await start_mail_server()
    sender = plain_session(mailbox.port)
    mailbox.release.clear()
    with pytest.raises(TimeoutFailure, match=r"within 0.1 s; outcome unknown"):
        await sender.send(prepared_email(timeout=0.1))
    mailbox.release.set()
    await sender.send(prepared_email(timeout=5))
    await sender.close()
    assert mailbox.connections == 2


async def test_server_that_never_greets_is_a_timeout() -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.receive()

    async with scripted_server(dialogue) as script:
        with pytest.raises(TimeoutFailure, match=f"127.0.0.1:{script.port}"):
            await plain_session(script.port).send(prepared_email(timeout=0.1))


async def test_a_cancelled_send_closes_its_connection(start_mail_server: Mail) -> None:
    mailbox = await start_mail_server()
    sender = plain_session(mailbox.port)
    await sender.send(prepared_email("first@example.com"))
    mailbox.release.clear()
    mailbox.arrived.clear()
    task = asyncio.create_task(sender.send(prepared_email("second@example.com")))
    await mailbox.arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    mailbox.release.set()
    await sender.send(prepared_email("third@example.com"))
    await sender.close()
    assert mailbox.connections == 2
    assert mailbox.mails[-1].rcpt_tos == ["third@example.com"]


async def test_a_closed_port_is_a_network_failure(closed_port: int) -> None:
    with pytest.raises(NetworkFailure, match=rf"127\.0\.0\.1:{closed_port}.*check the connection.s host"):
        await plain_session(closed_port).send(prepared_email())


@pytest.mark.parametrize("host", ["nowhere.invalid", "mail..example", "x" * 64 + ".example"])
async def test_unknown_host(host: str) -> None:
    with pytest.raises(NetworkFailure, match=rf"{host}:25: cannot find that host"):
        await session(SmtpServer(host, 25, "none")).send(prepared_email())


@pytest.mark.parametrize(
    ("greeting", "error"),
    [
        ("554 5.7.1 blocked", NetworkFailure),
        ("421 4.7.0 too many connections", RateLimited),
        ("HTTP/1.1 400", NetworkFailure),
    ],
)
async def test_a_refusing_greeting_is_retryable(greeting: str, error: type[BacklineError]) -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.send(greeting)

    async with scripted_server(dialogue) as script:
        with pytest.raises(error):
            await plain_session(script.port).send(prepared_email())


async def test_server_without_ehlo() -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.send("220-hello\n220 scripted")
        await line.receive()
        await line.send("502 what?")
        await line.receive()
        await line.send("250 hello")
        await line.accept_message()

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port, local_hostname="app.example")
        await sender.send(prepared_email())
        await sender.close()
        assert script.received[:4] == [
            b"EHLO app.example\r\n",
            b"HELO app.example\r\n",
            b"MAIL FROM:<shop@example.com>\r\n",
            b"RCPT TO:<ann@example.com>\r\n",
        ]


async def test_a_message_larger_than_the_server_accepts(start_mail_server: Mail) -> None:
    mailbox = await start_mail_server(data_size_limit=1000)
    sender = plain_session(mailbox.port)
    with pytest.raises(Rejected, match="accepts at most 1000") as caught:
        await sender.send(prepared_email(body=b"x" * 1001 + b"\r\n"))
    assert caught.value.code == "552 5.3.4"
    await sender.send(prepared_email())
    await sender.close()


async def test_international_address_needs_smtputf8(start_mail_server: Mail) -> None:
    mailbox = await start_mail_server(enable_SMTPUTF8=True)
    sender = plain_session(mailbox.port)
    await sender.send(prepared_email("jörg@example.com", utf8=True))
    await sender.close()
    assert mailbox.mails[0].rcpt_tos == ["jörg@example.com"]
    assert mailbox.mails[0].mail_options[1:] == ["BODY=8BITMIME", "SMTPUTF8"]
    sender = plain_session((await start_mail_server()).port)
    with pytest.raises(Rejected, match="international characters"):
        await sender.send(prepared_email("jörg@example.com", utf8=True))
    await sender.close()


@pytest.mark.parametrize("reply", ["2500 ok", "\u0662\u0665\u0660 ok", "25 ok", "250ok", "+25 ok"])
async def test_what_is_no_reply_of_smtp_is_no_acceptance(reply: str) -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.greet()
        await line.accept_message(answered=False)
        await line.send(reply)
        await line.receive()

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port)
        with pytest.raises(NetworkFailure, match="its reply is not SMTP"):
            await sender.send(prepared_email())
        await sender.close()


# Several messages under way over one connection.


@pytest.mark.parametrize("pipelining", [True, False])
async def test_concurrent_sends_share_the_connection(start_mail_server: Mail, *, pipelining: bool) -> None:
    mailbox = await start_mail_server(pipelining=pipelining)
    mailbox.scripted_replies["user3@example.com"] = ["550 5.1.1 nobody of that name"]
    sender = plain_session(mailbox.port)
    ended = await asyncio.gather(
        *[sender.send(prepared_email(f"user{n}@example.com")) for n in range(8)], return_exceptions=True
    )
    await sender.close()
    assert [type(each) is Receipt for each in ended] == [n != 3 for n in range(8)]
    assert isinstance(ended[3], Rejected)
    assert [start_mail_server.rcpt_tos for start_mail_server in mailbox.mails] == [
        [f"user{n}@example.com"] for n in range(8) if n != 3
    ]
    assert mailbox.connections == 1


async def test_the_next_envelope_is_sent_with_the_body() -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.greet("PIPELINING")
        await line.receive(b"DATA\r\n")
        await line.send("250 ok\n250 ok\n354 go on")
        await line.receive(b"\r\n.\r\n")
        await line.receive(b"DATA\r\n")  # before the message is answered
        await line.send("250 2.0.0 taken\n250 ok\n250 ok\n354 go on")
        await line.receive(b"\r\n.\r\n")
        await line.send("250 2.0.0 taken too")
        await line.receive()

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port)
        first, second = await asyncio.gather(
            sender.send(prepared_email()), sender.send(prepared_email("bob@example.com"))
        )
        await sender.close()
    assert (first.response, second.response) == ("2.0.0 taken", "2.0.0 taken too")
    assert b"RCPT TO:<bob@example.com>" in script.received[3]
    assert script.received[-1] == b"QUIT\r\n"


async def test_without_pipelining_the_next_envelope_waits_for_the_reply() -> None:
    early: list[bytes] = []

    async def dialogue(line: ScriptedConnection) -> None:
        await line.greet()
        await line.accept_message(answered=False)
        try:
            early.append(await asyncio.wait_for(line.receive(), 0.3))
        except TimeoutError:
            await line.send("250 2.0.0 taken")
            await line.accept_message()

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port)
        await asyncio.gather(sender.send(prepared_email()), sender.send(prepared_email()))
    assert early == []


@pytest.mark.parametrize("end", ["silence", "421 4.3.2 going down", "hang-up"])
async def test_a_failed_message_does_not_affect_the_next(end: str) -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.greet("PIPELINING")
        if line.number > 1:
            return await line.accept_message()
        await line.accept_message(answered=False)
        if end == "silence":
            await line.receive(b"never")
        elif end != "hang-up":
            await line.send(end)
            await line.receive(b"never")
        return None

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port)
        first, second = await asyncio.gather(
            sender.send(prepared_email(timeout=0.5 if end == "silence" else 5.0)),
            sender.send(prepared_email("bob@example.com")),
            return_exceptions=True,
        )
    assert isinstance(first, TimeoutFailure if end == "silence" else NetworkFailure)
    assert ("outcome unknown" in str(first)) == (not end.startswith("421"))
    assert isinstance(second, Receipt)
    assert script.connections == 2
    assert script.received[-3:-1] == [b"RCPT TO:<bob@example.com>\r\n", b"DATA\r\n"]


async def test_waiting_for_the_previous_message_does_not_use_up_the_timeout() -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.greet("PIPELINING")
        for _ in range(2):
            await line.accept_message(answered=False)
            await asyncio.sleep(1.0)  # a slow server, though each message is in time
            await line.send("250 2.0.0 taken")

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port)
        await asyncio.gather(*[sender.send(prepared_email(timeout=1.7)) for _ in range(2)])
    assert script.connections == 1


# TLS and signing in.


@pytest.mark.usefixtures("trust_test_ca")
@pytest.mark.parametrize("excluded", [[], ["PLAIN"]])
async def test_starttls_and_authentication(
    start_mail_server: Mail, server_tls: ssl.SSLContext, excluded: list[str]
) -> None:
    mailbox = await start_mail_server(
        tls_context=server_tls, require_starttls=True, authenticator=authenticate, auth_required=True,
        auth_exclude_mechanism=excluded,
    )  # fmt: skip
    sender = session(SmtpServer("localhost", mailbox.port, "starttls", "me", "pässword"))
    for _ in range(2):
        await sender.send(prepared_email())
    await sender.close()
    assert [start_mail_server.rcpt_tos for start_mail_server in mailbox.mails] == [["ann@example.com"]] * 2
    assert mailbox.connections == 1


@pytest.mark.usefixtures("trust_test_ca")
async def test_smtps(start_mail_server: Mail, server_tls: ssl.SSLContext) -> None:
    mailbox = await start_mail_server(smtps=server_tls)
    sender = session(SmtpServer("localhost", mailbox.port, "tls"))
    await sender.send(prepared_email())
    await sender.close()
    assert len(mailbox.mails) == 1


@pytest.mark.usefixtures("trust_test_ca")
async def test_a_wrong_password_is_permanent_and_not_shown(start_mail_server: Mail, server_tls: ssl.SSLContext) -> None:
    mailbox = await start_mail_server(tls_context=server_tls, authenticator=authenticate)
    sender = session(SmtpServer("localhost", mailbox.port, "starttls", "me", "wrong-secret"))
    with pytest.raises(AuthenticationFailed) as caught:
        await sender.send(prepared_email())
    assert caught.value.code == "535 5.7.8"
    assert "wrong-secret" not in str(caught.value)


async def test_a_password_echoed_by_the_server_is_not_in_the_error() -> None:
    async def dialogue(line: ScriptedConnection) -> None:
        await line.greet("AUTH PLAIN")
        secret = (await line.receive()).split()[-1].decode()
        await line.send(f"535 5.7.8 cannot accept {secret} ({base64.b64decode(secret).decode()[-10:]})")

    async with scripted_server(dialogue) as script:
        sender = plain_session(script.port, username="me", password="top-secret")
        with pytest.raises(AuthenticationFailed) as caught:
            await sender.send(prepared_email())
        told = str(caught.value) + caught.value.response
        assert "[hidden]" in told
        assert "top-secret" not in told
        assert base64.b64encode(b"\0me\0top-secret").decode() not in told


async def test_no_supported_authentication_mechanism(start_mail_server: Mail) -> None:
    mailbox = await start_mail_server()
    with pytest.raises(NetworkFailure, match="no supported authentication mechanism"):
        await plain_session(mailbox.port, username="me", password="pw").send(prepared_email())


async def test_starttls_is_required(start_mail_server: Mail) -> None:
    mailbox = await start_mail_server()
    with pytest.raises(NetworkFailure, match="does not offer STARTTLS"):
        await session(SmtpServer("127.0.0.1", mailbox.port, "starttls")).send(prepared_email())
    assert mailbox.mails == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_an_untrusted_certificate_is_refused(
    start_mail_server: Mail, server_tls: ssl.SSLContext, security: str
) -> None:
    mailbox = await (
        start_mail_server(smtps=server_tls) if security == "tls" else start_mail_server(tls_context=server_tls)
    )
    with pytest.raises(NetworkFailure, match="certificate is not valid for 'localhost'"):
        await session(SmtpServer("localhost", mailbox.port, security)).send(prepared_email())  # type: ignore[arg-type]
    sender = session(SmtpServer("localhost", mailbox.port, security, verify_tls=False))  # type: ignore[arg-type]
    await sender.send(prepared_email())
    await sender.close()
    assert len(mailbox.mails) == 1


@pytest.mark.usefixtures("trust_test_ca")
async def test_tls_to_a_plain_server(start_mail_server: Mail) -> None:
    mailbox = await start_mail_server()
    with pytest.raises(NetworkFailure, match="465: TLS, 587: STARTTLS"):
        await session(SmtpServer("localhost", mailbox.port, "tls")).send(prepared_email())


@pytest.mark.usefixtures("trust_test_ca")
async def test_plain_text_injected_before_tls_is_discarded(server_tls: ssl.SSLContext) -> None:
    """CVE-2011-0411, from the client's side: an attacker appends replies to the server's 220."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def hear(answer: bytes) -> None:
            heard.append(await reader.readline())
            writer.write(answer + b"\r\n")

        writer.write(b"220 hello\r\n")
        await hear(b"250-hello\r\n250 STARTTLS")
        await hear(b"220 go\r\n250-evil\r\n250 AUTH LOGIN\r\n250 half a li")
        await writer.start_tls(server_tls)
        await hear(b"250-hello\r\n250 AUTH PLAIN")
        await hear(b"235 ok")
        for answer in (b"250 ok", b"250 ok", b"354 go"):
            await hear(answer)
        while await reader.readline() != b".\r\n":
            pass
        writer.write(b"250 taken\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        sender = session(SmtpServer("localhost", port, "starttls", "me", "pw"))
        assert (await sender.send(prepared_email())).code == "250"
        await sender.close()
    assert heard[2].startswith(b"EHLO")
    assert heard[3].startswith(b"AUTH PLAIN")
