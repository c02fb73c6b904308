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
_REPLY_LINES = 1000
_GOODBYE_SECONDS = 1.0
_HOST_NAME = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{1,63}")


class ConnectionBroken(Exception):
    """The connection ended, or was ended, before all replies were in."""


class SmtpConnection(asyncio.Protocol):
    """Commands out, replies in, in the same order. One exchange at a time, one future and no task switch between."""

    def __init__(self) -> None:
        self.usable = True
        """False once it ended, was told to, or said something that nobody asked for."""
        self.body_sent = False
        """Whether this message's body was sent: the server may have all of it."""
        self.extensions: dict[str, str] = {}
        """What EHLO offered: keyword in capitals → parameters."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[list[Reply]] | None = None
        self._expected = 0
        self._replies: list[Reply] = []
        self._body = b""
        self._lines: list[str] = []
        self._rest = b""
        self._reason = "the server closed the connection"
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the greeting: the server speaks first, and may do so before anyone asks."""
        self._transport = cast("asyncio.Transport", transport)
        self._expect(1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is waited for."""
        self._end(ConnectionBroken(f"{self._reason} ({exc})" if exc else self._reason))

    def data_received(self, data: bytes) -> None:
        """Cut what came into replies."""
        whole, _, self._rest = (self._rest + data if self._rest else data).rpartition(b"\n")
        if len(self._rest) > _REPLY_BYTES or len(self._lines) > _REPLY_LINES:
            return self._abort("its answer never ends")
        if not whole:
            return None
        for line in whole.decode("utf-8", "replace").split("\n"):
            if line[3:4] == "-":
                self._lines.append(line[4:].rstrip("\r"))
                continue
            code = int(line[:3]) if line[:3].isdecimal() else 0
            if not 200 <= code < 600:
                return self._abort("its answer is not SMTP")
            text = line[4:].rstrip("\r")
            if self._lines:
                text = "\n".join([*self._lines, text])
                self._lines = []
            self._on_reply(Reply(code, text))
        return None

    def _on_reply(self, reply: Reply) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            # Nobody asked: mostly 421, "idle for too long".
            self.usable = False
            return
        replies = self._replies
        replies.append(reply)
        code = reply[0]
        if code == 421:
            self.usable = False
        elif len(replies) < self._expected:
            return
        elif code == 354 and self._body and all(earlier[0] < 300 for earlier in replies[:-1]):
            self._expected += 1
            self.body_sent = True
            cast("asyncio.Transport", self._transport).write(self._body)
            return
        waiter.set_result(replies)

    def _on_time(self) -> None:
        """The one timer: set anew only when it rings, since nearly every message is quicker."""
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._on_time)
        else:
            self._end(TimeoutError())

    def _abort(self, reason: str) -> None:
        self._reason = reason
        self.abort()

    def _end(self, exc: Exception) -> None:
        self.usable = False
        if self._timer is not None:
            self._timer.cancel()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc)

    def _expect(self, replies: int, body: bytes = b"") -> None:
        self._expected = replies
        self._replies = []
        self._body = body
        self._waiter = self._loop.create_future()

    # What sessions call.

    def begin(self, deadline: float) -> None:
        """Start on a message: exchanges that have not ended by then (the loop's time) raise TimeoutError."""
        self.body_sent = False
        self._deadline = deadline
        if self._timer is not None and self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._on_time)

    async def greeting(self) -> Reply:
        """What the server said first. Raises ConnectionBroken."""
        return (await self._wait())[0]

    async def exchange(self, commands: bytes, replies: int = 1, body: bytes = b"") -> list[Reply]:
        """Write, and wait for so many replies; fewer if one of them is 421, which ends the dialogue.

        `body` goes out at once when the last reply is 354 and no earlier one a refusal; its own reply is
        then the last. Raises ConnectionBroken or TimeoutError, after which, as after a cancellation, the
        connection is good for nothing but `abort`.
        """
        if not self.usable or self._transport is None:
            raise ConnectionBroken(self._reason)
        self._expect(replies, body)
        self._transport.write(commands)
        return await self._wait()

    async def _wait(self) -> list[Reply]:
        if self._waiter is None:
            raise ConnectionBroken(self._reason)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes with it."""
        self._end(ConnectionBroken(self._reason))
        if self._transport is not None:
            self._transport.abort()

    async def quit(self) -> None:
        """Say goodbye, wait a second for the answer, and close; never raises."""
        with suppress(ConnectionBroken, TimeoutError):
            self.begin(self._loop.time() + _GOODBYE_SECONDS)
            await self.exchange(b"QUIT\r\n")
        if self._transport is not None:
            self._transport.close()

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Turn to TLS after the server's 220; all that was learnt before is forgotten (RFC 3207 section 4.2)."""
        # Whatever came with the 220 was sent by anyone.
        self._rest, self._lines, self.extensions, self.usable = b"", [], {}, True
        transport = await self._loop.start_tls(
            cast("asyncio.Transport", self._transport), self, context, server_hostname=host
        )
        if transport is None:
            raise ConnectionBroken(self._reason)
        self._transport = transport

    def local_name(self) -> str:
        """Who we say we are: this host's full name, or else its address as a literal (RFC 5321 section 4.1.3)."""
        name = socket.gethostname()
        if _HOST_NAME.fullmatch(name):
            return name
        address = str(cast("asyncio.Transport", self._transport).get_extra_info("sockname")[0]).partition("%")[0]
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
    except (socket.gaierror, UnicodeError) as exc:
        # UnicodeError: a name that DNS cannot hold, such as "mail..example".
        raise NetworkFailure(f"{server}: cannot find that host ({exc}); check the connection's host and DNS") from exc
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
    name = (server.local_hostname or connection.local_name()).encode()
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
