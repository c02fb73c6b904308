"""One SMTP connection on asyncio: connecting, TLS, signing in, and exchanging commands for replies."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import ssl
from binascii import b2a_base64
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from backline.channels.email.replies import Reply, Stage, error_from_reply
from backline.channels.email.server import SmtpServer
from backline.errors import NetworkFailure

_MAX_REPLY_BYTES = 64 * 1024
"""A server that says more than this at once is not an SMTP server."""
_MAX_REPLY_LINES = 1000
_QUIT_TIMEOUT_SECONDS = 1.0
_HOST_NAME = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{1,63}")


class ConnectionBroken(Exception):
    """The connection ended, or was ended, before all replies were in."""


class Transaction:
    """One mail transaction (RFC 5321 section 3.3): its time, which runs while it is first in line, and how far it got."""

    __slots__ = ("body_sent", "deadline", "on_body_start")

    def __init__(self, deadline: float, on_body: Callable[[], None] | None = None) -> None:
        """`deadline` by the loop's clock; `on_body_start` is called once the body is on its way, and with it the wire free."""
        self.deadline = deadline
        self.on_body_start = on_body
        self.body_sent = False
        """Whether the body was sent: the server may have all of it."""


class _Exchange:
    """Commands that were written, and the replies that they wait for."""

    __slots__ = ("body", "expected_replies", "replies", "started_at", "transaction", "waiter")

    def __init__(
        self, transaction: Transaction, expected: int, body: bytes, asked: float, waiter: asyncio.Future[list[Reply]]
    ) -> None:
        self.transaction = transaction
        self.expected_replies = expected
        self.body = body
        self.started_at = asked
        self.waiter = waiter
        self.replies: list[Reply] = []


class SmtpConnection(asyncio.Protocol):
    """Commands out, replies in, in the same order.

    What is written in one turn of the loop goes out as one segment: in a busy dialogue the next envelope travels
    with the body before it, as RFC 2920 section 3.1 allows.
    """

    def __init__(self) -> None:
        self.usable = True
        """False once it ended, was told to, or said something that nobody asked for."""
        self.extensions: dict[str, str] = {}
        """What EHLO offered: keyword in capitals → parameters."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._exchanges: deque[_Exchange] = deque()
        self._greeting = self._add_exchange(
            Transaction(math.inf), 1
        )  # the server speaks first, and may before anyone asks
        self._write_buffer: list[bytes] = []
        self._reply_lines: list[str] = []
        self._read_buffer = b""
        self._close_reason = "the server closed the connection"
        self._timer: asyncio.TimerHandle | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to write."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is waited for."""
        self._fail_exchanges(ConnectionBroken(f"{self._close_reason} ({exc})" if exc else self._close_reason))

    def data_received(self, data: bytes) -> None:
        """Cut what came into replies."""
        if b"\0" in data:
            data = data.replace(b"\0", b"?")  # no database takes it, and no server should say it
        whole, _, self._read_buffer = (self._read_buffer + data if self._read_buffer else data).rpartition(b"\n")
        if len(self._read_buffer) > _MAX_REPLY_BYTES or len(self._reply_lines) > _MAX_REPLY_LINES:
            return self._abort("its answer never ends")
        if not whole:
            return None
        for line in whole.decode("utf-8", "replace").split("\n"):
            if line[3:4] == "-":
                self._reply_lines.append(line[4:].rstrip("\r"))
                continue
            code = int(line[:3]) if line[:3].isdecimal() else 0
            if not 200 <= code < 600:
                return self._abort("its answer is not SMTP")
            text = line[4:].rstrip("\r")
            if self._reply_lines:
                text = "\n".join([*self._reply_lines, text])
                self._reply_lines = []
            self._on_reply(Reply(code, text))
        return None

    def _on_reply(self, reply: Reply) -> None:
        if not self._exchanges:
            # Nobody asked: mostly 421, "idle for too long".
            self.usable = False
            return
        exchange = self._exchanges[0]
        replies = exchange.replies
        replies.append(reply)
        code = reply[0]
        if code == 421:
            self.usable = False
        elif len(replies) < exchange.expected_replies:
            return
        elif code == 354 and exchange.body and all(earlier[0] < 300 for earlier in replies[:-1]):
            exchange.expected_replies += 1
            transaction = exchange.transaction
            transaction.body_sent = True
            if transaction.on_body_start is not None:
                transaction.on_body_start()  # before the body is due to be written, so that the next envelope comes along
            self._write(exchange.body)
            exchange.body = b""
            return
        self._exchanges.popleft()
        if not exchange.waiter.done():
            exchange.waiter.set_result(replies)
        if self._exchanges and not self.usable:
            self._fail_exchanges(ConnectionBroken(reply.text))
        elif self._exchanges:
            # Its time begins now: so far the server was busy with the one before.
            following = self._exchanges[0]
            following.transaction.deadline += self._loop.time() - following.started_at

    def _on_timer(self) -> None:
        """The one timer: set anew only when it rings, since nearly every message is quicker."""
        self._timer = None
        if not self._exchanges:
            return
        deadline = self._exchanges[0].transaction.deadline
        if self._loop.time() < deadline:
            self._timer = self._loop.call_at(deadline, self._on_timer)
        else:
            self._fail_exchanges(TimeoutError())

    def _abort(self, reason: str) -> None:
        self._close_reason = reason
        self.abort()

    def _fail_exchanges(self, exc: Exception) -> None:
        """Fail the first in line with this, and the others, whose turn had not come, with a broken connection."""
        self.usable = False
        self._write_buffer.clear()
        if self._timer is not None:
            self._timer.cancel()
        line, self._exchanges = self._exchanges, deque()
        for exchange in line:
            if not exchange.waiter.done():
                exchange.waiter.set_exception(exc)
                exchange.waiter.exception()  # a cancelled sender does not fetch it
            exc = ConnectionBroken(self._close_reason)

    def _write(self, data: bytes) -> None:
        if not self._write_buffer:
            self._loop.call_soon(self._flush)
        self._write_buffer.append(data)

    def _flush(self) -> None:
        if self._write_buffer and self._transport is not None:
            self._transport.write(b"".join(self._write_buffer))
            self._write_buffer.clear()

    def _add_exchange(self, transaction: Transaction, replies: int, body: bytes = b"") -> asyncio.Future[list[Reply]]:
        exchange = _Exchange(transaction, replies, body, self._loop.time(), self._loop.create_future())
        self._exchanges.append(exchange)
        return exchange.waiter

    # What sessions call.

    async def greeting(self) -> Reply:
        """What the server said first. Raises ConnectionBroken."""
        return (await self._greeting)[0]

    async def exchange(
        self, transaction: Transaction, commands: bytes, replies: int = 1, body: bytes = b""
    ) -> list[Reply]:
        """Write, and wait for so many replies; fewer if one of them is 421, which ends the dialogue.

        `body` goes out at once when the last reply is 354 and no earlier one a refusal; its own reply is
        then the last. Until then nothing else may be asked. Raises ConnectionBroken or TimeoutError, after which, as
        after a cancellation, the connection is good for nothing but `abort`.
        """
        if not self.usable:
            raise ConnectionBroken(self._close_reason)
        waiter = self._add_exchange(transaction, replies, body)
        self._schedule_timer(transaction.deadline)
        self._write(commands)
        return await waiter

    def _schedule_timer(self, deadline: float) -> None:
        """See to it that the timer rings at the deadline or before."""
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._on_timer)

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes with it."""
        self._fail_exchanges(ConnectionBroken(self._close_reason))
        if self._transport is not None:
            self._transport.abort()

    async def quit(self) -> None:
        """Say goodbye, wait a second for the answer, and close; never raises."""
        with suppress(ConnectionBroken, TimeoutError):
            await self.exchange(Transaction(self._loop.time() + _QUIT_TIMEOUT_SECONDS), b"QUIT\r\n")
        if self._transport is not None:
            self._transport.close()

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Turn to TLS after the server's 220; all that was learnt before is forgotten (RFC 3207 section 4.2)."""
        # Whatever came with the 220 was sent by anyone.
        self._read_buffer, self._reply_lines, self.extensions, self.usable = b"", [], {}, True
        transport = await self._loop.start_tls(
            cast("asyncio.Transport", self._transport), self, context, server_hostname=host
        )
        if transport is None:
            raise ConnectionBroken(self._close_reason)
        self._transport = transport

    def local_name(self) -> str:
        """Who we say we are: this host's full name, or else its address as a literal (RFC 5321 section 4.1.3)."""
        name = socket.gethostname()
        if _HOST_NAME.fullmatch(name):
            return name
        address = str(cast("asyncio.Transport", self._transport).get_extra_info("sockname")[0]).partition("%")[0]
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


async def connect(server: SmtpServer, context: ssl.SSLContext | None, deadline: float) -> SmtpConnection:
    """Connect, greet, protect and sign in, by the deadline (the loop's time); TimeoutError after it.

    Every other failure is one of `backline.errors`, naming the server. All but refused credentials is retryable: it
    is about the connection, and condemns no message.
    """
    connection = SmtpConnection()
    opened = False
    try:
        async with asyncio.timeout_at(deadline):
            await _set_up(connection, Transaction(deadline), server, context)
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


async def _set_up(
    connection: SmtpConnection, beginning: Transaction, server: SmtpServer, context: ssl.SSLContext | None
) -> None:
    await asyncio.get_running_loop().create_connection(
        lambda: connection, server.host, server.port, ssl=context if server.security == "tls" else None
    )
    _require_code(await connection.greeting(), 220, Stage.GREETING, server)
    await _send_ehlo(connection, beginning, server)
    if server.security == "starttls":
        if "STARTTLS" not in connection.extensions or context is None:
            advice = "set disable_tls in the connection's extra only if plain text is what you want"
            raise NetworkFailure(f"{server} does not offer STARTTLS, which the connection demands; {advice}")
        _require_code((await connection.exchange(beginning, b"STARTTLS\r\n"))[0], 220, Stage.STARTTLS, server)
        await connection.start_tls(context, server.host)
        await _send_ehlo(connection, beginning, server)
    if server.username is not None and server.password is not None:
        await _authenticate(connection, beginning, server, server.username, server.password)


def _require_code(reply: Reply, code: int, stage: Stage, server: SmtpServer) -> None:
    if reply.code != code:
        raise error_from_reply(reply, stage, str(server))


async def _send_ehlo(connection: SmtpConnection, beginning: Transaction, server: SmtpServer) -> None:
    name = (server.local_hostname or connection.local_name()).encode()
    (reply,) = await connection.exchange(beginning, b"EHLO %b\r\n" % name)
    if 500 <= reply.code < 600:
        # A server from before RFC 1869 (1995), or one whose extensions a firewall hides.
        (reply,) = await connection.exchange(beginning, b"HELO %b\r\n" % name)
        _require_code(reply, 250, Stage.EHLO, server)
        return
    _require_code(reply, 250, Stage.EHLO, server)
    for line in reply.text.split("\n")[1:]:
        keyword, _, parameters = line.replace("=", " ", 1).partition(" ")
        connection.extensions[keyword.upper()] = parameters.upper()


async def _authenticate(
    connection: SmtpConnection, beginning: Transaction, server: SmtpServer, username: str, password: str
) -> None:
    """AUTH PLAIN (RFC 4616), or LOGIN where only that is offered. The server's words are kept without the password."""
    mechanisms = connection.extensions.get("AUTH", "").split()
    plain = _base64(f"\0{username}\0{password}")
    if "PLAIN" in mechanisms:
        (reply,) = await connection.exchange(beginning, b"AUTH PLAIN %b\r\n" % plain)
    elif "LOGIN" in mechanisms:
        (reply,) = await connection.exchange(beginning, b"AUTH LOGIN\r\n")
        for answer in (_base64(username), _base64(password)):
            if reply.code != 334:
                break
            (reply,) = await connection.exchange(beginning, answer + b"\r\n")
    else:
        offered = ", ".join(mechanisms) or "none"
        advice = "signing in needs PLAIN or LOGIN, which many servers offer under TLS only"
        raise NetworkFailure(f"{server} offers no way to sign in that we know (offered: {offered}); {advice}")
    if reply.code != 235:
        text = reply.text
        for secret in (password, plain.decode(), _base64(password).decode()):
            text = text.replace(secret, "[hidden]")
        raise error_from_reply(Reply(reply.code, text), Stage.AUTH, str(server))


def _base64(text: str) -> bytes:
    return b2a_base64(text.encode(), newline=False)
