"""One SMTP connection on asyncio: connecting, TLS, signing in, and exchanging commands for replies."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from binascii import b2a_base64
from contextlib import suppress
from typing import cast

from backline.channels.email.replies import Reply, Stage, failure
from backline.channels.email.server import SmtpServer
from backline.errors import NetworkFailure

_REPLY_BYTES = 64 * 1024
"""A server that says more than this at once is not an SMTP server."""
_GOODBYE_SECONDS = 1.0
_HOST_NAME = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{1,63}")


class ConnectionBroken(Exception):
    """The connection ended, or was ended, before all replies were in."""


class SmtpConnection(asyncio.Protocol):
    """Commands out, replies in, in the same order. One exchange at a time."""

    def __init__(self) -> None:
        self.usable = True
        """False once it ended, was told to, or said something that nobody asked for."""
        self.extensions: dict[str, str] = {}
        """What EHLO offered: keyword in capitals → parameters."""
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[list[Reply]] | None = None
        self._expected = 0
        self._replies: list[Reply] = []
        self._lines: list[str] = []
        self._rest = b""
        self._reason = "the server closed the connection"

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # The server speaks first, and may do so before anyone asks.
        self._expect(1)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"{self._reason} ({exc})" if exc else self._reason)

    def data_received(self, data: bytes) -> None:
        lines = (self._rest + data if self._rest else data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            code, separator, text = line[:3], line[3:4], line[4:].rstrip(b"\r").decode("utf-8", "replace")
            if not code.isdigit() or len(code) != 3:
                return self._abort("the server's answer is not SMTP")
            if separator == b"-":
                self._lines.append(text)
                if len(self._lines) > 1000:
                    return self._abort("the server's answer never ends")
                continue
            if self._lines:
                text = "\n".join([*self._lines, text])
                self._lines = []
            self._on_reply(Reply(int(code), text))
        if len(self._rest) > _REPLY_BYTES:
            self._abort("the server's answer never ends")
        return None

    def _on_reply(self, reply: Reply) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            # Mostly 421, "idle for too long".
            self.usable = False
            return
        self._replies.append(reply)
        if reply.code == 421:
            self.usable = False
            waiter.set_result(self._replies)
        elif len(self._replies) == self._expected:
            waiter.set_result(self._replies)

    def _abort(self, reason: str) -> None:
        self._reason = reason
        self.abort()

    def _end(self, reason: str) -> None:
        self.usable = False
        self._reason = reason
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionBroken(reason))

    # What sessions call.

    async def greeting(self) -> Reply:
        """What the server said first. Raises ConnectionBroken."""
        return (await self._wait())[0]

    async def exchange(self, data: bytes, replies: int = 1) -> list[Reply]:
        """Write, and wait for so many replies; fewer if one of them is 421, which ends the dialogue.

        Raises ConnectionBroken. After a cancelled exchange the connection is good for nothing but `abort`.
        """
        if not self.usable or self._transport is None:
            raise ConnectionBroken(self._reason)
        self._expect(replies)
        self._transport.write(data)
        return await self._wait()

    def _expect(self, replies: int) -> None:
        self._expected = replies
        self._replies = []
        self._waiter = asyncio.get_running_loop().create_future()

    async def _wait(self) -> list[Reply]:
        if self._waiter is None:
            raise ConnectionBroken(self._reason)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes with it."""
        self._end(self._reason)
        if self._transport is not None:
            self._transport.abort()

    async def quit(self) -> None:
        """Say goodbye, wait a second for the answer, and close; never raises."""
        with suppress(ConnectionBroken, TimeoutError):
            await asyncio.wait_for(self.exchange(b"QUIT\r\n"), _GOODBYE_SECONDS)
        if self._transport is not None:
            self._transport.close()

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Turn to TLS after the server's 220; all that was learnt before is forgotten (RFC 3207 section 4.2)."""
        # Whatever came with the 220 was sent by anyone.
        self._rest, self._lines, self.extensions, self.usable = b"", [], {}, True
        transport = await asyncio.get_running_loop().start_tls(
            cast(asyncio.Transport, self._transport), self, context, server_hostname=host
        )
        if transport is None:
            raise ConnectionBroken(self._reason)
        self._transport = transport

    def local_name(self) -> str:
        """Who we say we are: this host's full name, or else its address as a literal (RFC 5321 section 4.1.3)."""
        name = socket.gethostname()
        if _HOST_NAME.fullmatch(name):
            return name
        address = str(cast(asyncio.Transport, self._transport).get_extra_info("sockname")[0]).partition("%")[0]
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


async def connect(server: SmtpServer, context: ssl.SSLContext | None) -> SmtpConnection:
    """Connect, greet, protect and sign in; every failure is one of `backline.errors`, naming the server.

    All but refused credentials is retryable: it is about the connection, and condemns no message.
    """
    connection = SmtpConnection()
    opened = False
    try:
        await _open(connection, server, context)
        opened = True
    except ssl.SSLCertVerificationError as exc:
        text = f"{server}: its certificate is not valid for {server.host!r}: {exc.verify_message}"
        advice = 'mend the host, trust its authority (SSL_CERT_FILE), or set ssl_context = "none" for a test server'
        raise NetworkFailure(f"{text}; {advice}") from exc
    except ssl.SSLError as exc:
        advice = "check that port and protection belong together (465: TLS, 587: STARTTLS)"
        raise NetworkFailure(f"{server}: no TLS connection ({exc.reason or exc}); {advice}") from exc
    except socket.gaierror as exc:
        text = f"{server}: cannot find that host ({exc.strerror}); check the connection's host and DNS"
        raise NetworkFailure(text) from exc
    except TimeoutError:
        raise
    except (OSError, ConnectionBroken) as exc:
        advice = "check host, port and protection of the connection, and that the server runs"
        raise NetworkFailure(f"{server}: no SMTP session ({exc}); {advice}") from exc
    finally:
        if not opened:
            connection.abort()
    return connection


async def _open(connection: SmtpConnection, server: SmtpServer, context: ssl.SSLContext | None) -> None:
    await asyncio.get_running_loop().create_connection(
        lambda: connection, server.host, server.port, ssl=context if server.security == "tls" else None
    )
    _require(await connection.greeting(), 220, Stage.GREETING, server)
    await _introduce(connection, server)
    if server.security == "starttls":
        if "STARTTLS" not in connection.extensions or context is None:
            advice = "set disable_tls in the connection's extra only if plain text is what you want"
            raise NetworkFailure(f"{server} does not offer STARTTLS, which the connection demands; {advice}")
        _require((await connection.exchange(b"STARTTLS\r\n"))[0], 220, Stage.STARTTLS, server)
        await connection.start_tls(context, server.host)
        await _introduce(connection, server)
    if server.username is not None and server.password is not None:
        await _sign_in(connection, server, server.username, server.password)


def _require(reply: Reply, code: int, stage: Stage, server: SmtpServer) -> None:
    if reply.code != code:
        raise failure(reply, stage, str(server))


async def _introduce(connection: SmtpConnection, server: SmtpServer) -> None:
    name = (server.local_hostname or connection.local_name()).encode("ascii")
    (reply,) = await connection.exchange(b"EHLO %b\r\n" % name)
    if 500 <= reply.code < 600:
        # A server from before RFC 1869 (1995), or one whose extensions a firewall hides.
        (reply,) = await connection.exchange(b"HELO %b\r\n" % name)
        _require(reply, 250, Stage.EHLO, server)
        return
    _require(reply, 250, Stage.EHLO, server)
    for line in reply.text.split("\n")[1:]:
        keyword, _, parameters = line.replace("=", " ", 1).partition(" ")
        connection.extensions[keyword.upper()] = parameters.upper()


async def _sign_in(connection: SmtpConnection, server: SmtpServer, username: str, password: str) -> None:
    """AUTH PLAIN (RFC 4616), or LOGIN where only that is offered. The server's words are kept without the password."""
    mechanisms = connection.extensions.get("AUTH", "").split()
    plain = _base64(f"\0{username}\0{password}")
    if "PLAIN" in mechanisms:
        (reply,) = await connection.exchange(b"AUTH PLAIN %b\r\n" % plain)
    elif "LOGIN" in mechanisms:
        (reply,) = await connection.exchange(b"AUTH LOGIN\r\n")
        for answer in (_base64(username), _base64(password)):
            if reply.code != 334:
                break
            (reply,) = await connection.exchange(answer + b"\r\n")
    else:
        offered = ", ".join(mechanisms) or "none"
        advice = "signing in needs PLAIN or LOGIN, which many servers offer under TLS only"
        raise NetworkFailure(f"{server} offers no way to sign in that we know (offered: {offered}); {advice}")
    if reply.code != 235:
        text = reply.text
        for secret in (password, plain.decode(), _base64(password).decode()):
            text = text.replace(secret, "[hidden]")
        raise failure(Reply(reply.code, text), Stage.AUTH, str(server))


def _base64(text: str) -> bytes:
    return b2a_base64(text.encode(), newline=False)
