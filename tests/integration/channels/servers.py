"""SMTP servers on loopback: aiosmtpd for correct behaviour, a scripted one for faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from backline.channels.email.channel import PreparedEmail

BODY = b"From: a@example.com\r\nTo: ann@example.com\r\nSubject: hello\r\n\r\nhello\r\n..dot\r\n"


def prepared_email(*recipients: str, body: bytes = BODY, timeout: float = 5.0, utf8: bool = False) -> PreparedEmail:
    return PreparedEmail(
        message_id="<backline.1.2@example.com>",
        sender="shop@example.com",
        recipients=recipients or ("ann@example.com",),
        body=body + b".\r\n",
        size=len(body),
        timeout=timeout,
        utf8=utf8,
    )


@dataclass
class Mailbox:
    """Handler of aiosmtpd: stores received mails, and replies as configured."""

    port: int = 0
    mails: list[Envelope] = field(default_factory=list)
    connections: int = 0
    scripted_replies: dict[str, list[str]] = field(default_factory=dict)
    """Command or address → its replies, used once each, before the ordinary ones."""
    pipelining: bool = True
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, no message gets a reply."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a whole message was received."""

    def __post_init__(self) -> None:
        self.release.set()

    async def handle_EHLO(  # noqa: N802
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]] if self.pipelining else responses

    async def handle_MAIL(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if answer := self._next_reply("MAIL"):
            return answer
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 ok"

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if answer := self._next_reply(address) or self._next_reply("RCPT"):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.arrived.set()
        await self.release.wait()
        if answer := self._next_reply("DATA"):
            return answer
        self.mails.append(envelope)
        return f"250 2.0.0 Ok: queued as Q{len(self.mails)}"

    def _next_reply(self, key: str) -> str:
        answers = self.scripted_replies.get(key)
        return answers.pop(0) if answers else ""


def authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"me", "pässword".encode())
    return AuthResult(success=good, handled=False, message=None if good else "535 5.7.8 no: cMOkc3N3b3Jk")


@dataclass
class ScriptedServer:
    """A server that sends scripted replies, whatever the client sends, and records what it received."""

    port: int
    received: list[bytes] = field(default_factory=list)
    connections: int = 0


Dialogue = Callable[["ScriptedConnection"], Awaitable[None]]


class ScriptedConnection:
    """The scripted server's end of one connection."""

    def __init__(self, script: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._script, self._reader, self._writer = script, reader, writer
        self.number = script.connections

    async def send(self, text: str) -> None:
        self._writer.write(text.replace("\n", "\r\n").encode() + b"\r\n")
        await self._writer.drain()

    async def receive(self, until: bytes = b"\r\n") -> bytes:
        heard = await self._reader.readuntil(until)
        self._script.received.append(heard)
        return heard

    async def greet(self, *extensions: str) -> None:
        await self.send("220 scripted.test")
        await self.receive()
        await self.send("\n".join(f"250-{name}" for name in ("scripted.test", *extensions)) + "\n250 HELP")

    async def accept_message(self, *, answered: bool = True) -> None:
        """One message for one recipient, and the reply to it."""
        for answer in ("250 ok", "250 ok", "354 go on"):
            await self.receive()
            await self.send(answer)
        await self.receive(b"\r\n.\r\n")
        if answered:
            await self.send("250 2.0.0 taken")


@asynccontextmanager
async def scripted_server(dialogue: Dialogue) -> AsyncIterator[ScriptedServer]:
    script = ScriptedServer(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script.connections += 1
        try:
            await dialogue(ScriptedConnection(script, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        script.port = server.sockets[0].getsockname()[1]
        yield script
