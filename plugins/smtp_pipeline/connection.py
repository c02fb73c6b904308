"""One SMTP connection on asyncio: connecting, TLS, authentication, and the exchange of commands and replies."""

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
from dataclasses import dataclass, field
from typing import Literal, cast

from smtp_pipeline.replies import Reply, Stage

_MAX_REPLY_BYTES = 64 * 1024
"""A server whose reply is longer is not an SMTP server."""
_MAX_REPLY_LINES = 1000
_REPLY_START = re.compile(r"[2-5][0-9]{2}(?:[ \r]|$)")
_QUIT_TIMEOUT_SECONDS = 1.0
_HOST_NAME = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{1,63}")


class ConnectionBroken(Exception):
    """The connection was closed, by either end, before all replies were received."""


class ConnectError(Exception):
    """No session could be opened; the text names the server and says what to check."""


class UnexpectedReply(Exception):
    """A reply with which a session cannot begin."""

    def __init__(self, reply: Reply, stage: Stage) -> None:
        super().__init__(f"{stage.value}: {reply}")
        self.reply, self.stage = reply, stage


Security = Literal["none", "starttls", "tls"]


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """An SMTP server to submit to.

    `security`: "tls" from the first byte (RFC 8314), "starttls" required before authentication and mail (RFC 3207), or
    "none". `local_hostname` is the name for EHLO; None: this host's full name, or else its address.
    """

    host: str
    port: int
    security: Security = "starttls"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    verify_tls: bool = True
    local_hostname: str | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS context of the connection, or None for plain text. Takes 20 ms: create it once."""
        if self.security == "none":
            return None
        context = ssl.create_default_context()
        if not self.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(slots=True)
class Transaction:
    """One mail transaction (RFC 5321 section 3.3)."""

    deadline: float
    """By the loop's clock; it runs while the transaction is first in line."""
    on_body_start: Callable[[], None] | None = None
    """Called before the body is written: the next transaction may begin."""
    body_sent: bool = False
    """Whether the body was sent, so that the server may have all of it."""


@dataclass(slots=True)
class _Exchange:
    transaction: Transaction
    expected_replies: int
    body: bytes
    started_at: float
    waiter: asyncio.Future[list[Reply]]
    replies: list[Reply] = field(default_factory=list)


class SmtpConnection(asyncio.Protocol):
    """Writes commands and reads their replies, in the same order.

    Everything written in one iteration of the event loop is sent together. Under load the next message's envelope is
    therefore sent with the body before it, as RFC 2920 section 3.1 allows.
    """

    def __init__(self) -> None:
        self.usable = True
        """False once the connection ended, is about to end, or sent an unsolicited reply."""
        self.extensions: dict[str, str] = {}
        """What EHLO offered: keyword in upper case → parameters."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._exchanges: deque[_Exchange] = deque()
        self.greeting = self._add_exchange(Transaction(math.inf), 1)
        """The server's first reply, which it sends unasked; ConnectionBroken."""
        self._write_buffer: list[bytes] = []
        self._reply_lines: list[str] = []
        self._read_buffer = b""
        self._close_reason = "the server closed the connection"
        self._timer: asyncio.TimerHandle | None = None

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all pending exchanges."""
        self._fail_exchanges(ConnectionBroken(f"{self._close_reason} ({exc})" if exc else self._close_reason))

    def data_received(self, data: bytes) -> None:
        """Split the received bytes into replies."""
        if b"\0" in data:
            data = data.replace(b"\0", b"?")  # no text of a reply has one; databases cannot store it
        whole, _, self._read_buffer = (self._read_buffer + data if self._read_buffer else data).rpartition(b"\n")
        if len(self._read_buffer) > _MAX_REPLY_BYTES or len(self._reply_lines) > _MAX_REPLY_LINES:
            return self.abort("its reply never ends")
        if not whole:
            return None
        for line in whole.decode("utf-8", "replace").split("\n"):
            if line[3:4] == "-":
                self._reply_lines.append(line[4:].rstrip("\r"))
                continue
            code = int(line[:3]) if _REPLY_START.match(line) else 0
            if not code:
                return self.abort("its reply is not SMTP")
            text = line[4:].rstrip("\r")
            if self._reply_lines:
                text = "\n".join([*self._reply_lines, text])
                self._reply_lines = []
            self._on_reply(Reply(code, text))
        return None

    def _on_reply(self, reply: Reply) -> None:
        if not self._exchanges:
            # Unsolicited: usually 421, "idle for too long".
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
                transaction.on_body_start()  # before the body is written, so that the next envelope is sent with it
            self._write(exchange.body)
            exchange.body = b""
            return
        self._exchanges.popleft()
        if not exchange.waiter.done():
            exchange.waiter.set_result(replies)
        if self._exchanges and not self.usable:
            self._fail_exchanges(ConnectionBroken(reply.text))
        elif self._exchanges:
            # Its deadline starts now: until now the server was busy with the previous one.
            following = self._exchanges[0]
            following.transaction.deadline += self._loop.time() - following.started_at

    def _on_timer(self) -> None:
        """The one timer: rescheduled only when it fires, because nearly every message is quicker."""
        self._timer = None
        if not self._exchanges:
            return
        deadline = self._exchanges[0].transaction.deadline
        if self._loop.time() < deadline:
            self._timer = self._loop.call_at(deadline, self._on_timer)
        else:
            self._fail_exchanges(TimeoutError())

    def _fail_exchanges(self, exc: Exception) -> None:
        """Fail the first exchange with this error and the others, which had not begun, with a broken connection."""
        self.usable = False
        self._write_buffer.clear()
        if self._timer is not None:
            self._timer.cancel()
        pending, self._exchanges = self._exchanges, deque()
        for exchange in pending:
            if not exchange.waiter.done():
                exchange.waiter.set_exception(exc)
                exchange.waiter.exception()  # marks it as retrieved: a cancelled sender does not
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

    # Called by sessions.

    async def exchange(
        self, transaction: Transaction, commands: bytes, replies: int = 1, body: bytes = b""
    ) -> list[Reply]:
        """Write commands and wait for so many replies; fewer if one of them is 421, which ends the session.

        `body` is written when the last reply is 354 and none was a refusal; the reply to it then comes last. Until then no
        other command may be sent. After an error or a cancellation the connection can only be aborted.
        """
        if not self.usable:
            raise ConnectionBroken(self._close_reason)
        waiter = self._add_exchange(transaction, replies, body)
        self._schedule_timer(transaction.deadline)
        self._write(commands)
        return await waiter

    def _schedule_timer(self, deadline: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._on_timer)

    def abort(self, reason: str = "") -> None:
        """Close the connection at once and discard unsent bytes."""
        self._close_reason = reason or self._close_reason
        self._fail_exchanges(ConnectionBroken(self._close_reason))
        if self._transport is not None:
            self._transport.abort()

    async def quit(self) -> None:
        """Send QUIT, wait a second for the reply, and close; never raises."""
        with suppress(ConnectionBroken, TimeoutError):
            await self.exchange(Transaction(self._loop.time() + _QUIT_TIMEOUT_SECONDS), b"QUIT\r\n")
        if self._transport is not None:
            self._transport.close()

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS after the server's 220, and discard everything received before (RFC 3207 section 4.2)."""
        # Bytes that came with the 220 were not protected: anyone could have inserted them.
        self._read_buffer, self._reply_lines, self.extensions, self.usable = b"", [], {}, True
        transport = await self._loop.start_tls(
            cast("asyncio.Transport", self._transport), self, context, server_hostname=host
        )
        if transport is None:
            raise ConnectionBroken(self._close_reason)
        self._transport = transport

    def local_name(self) -> str:
        """The name for EHLO: this host's full name, or else its address as a literal (RFC 5321 section 4.1.3)."""
        name = socket.gethostname()
        if _HOST_NAME.fullmatch(name):
            return name
        address = str(cast("asyncio.Transport", self._transport).get_extra_info("sockname")[0]).partition("%")[0]
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


async def connect(server: SmtpServer, context: ssl.SSLContext | None, deadline: float) -> SmtpConnection:
    """Connect, start TLS and authenticate before the deadline (the loop's time); TimeoutError after it.

    ConnectError names the server; UnexpectedReply has a reply that refuses the session, such as one to AUTH.
    """
    connection = SmtpConnection()
    opened = False
    try:
        async with asyncio.timeout_at(deadline):
            await _set_up(connection, Transaction(deadline), server, context)
        opened = True
    except ssl.SSLCertVerificationError as exc:
        text = f"{server}: its certificate is not valid for {server.host!r}: {exc.verify_message}"
        advice = 'correct the host, trust its authority (SSL_CERT_FILE), or set ssl_context = "none" for a test server'
        raise ConnectError(f"{text}; {advice}") from exc
    except ssl.SSLError as exc:
        advice = "check that port and security match (465: TLS, 587: STARTTLS)"
        raise ConnectError(f"{server}: no TLS connection ({exc.reason or exc}); {advice}") from exc
    except (socket.gaierror, UnicodeError) as exc:
        # UnicodeError: a name that DNS cannot hold, such as "mail..example".
        raise ConnectError(f"{server}: cannot find that host ({exc}); check the connection's host and DNS") from exc
    except TimeoutError:
        raise
    except (OSError, ConnectionBroken) as exc:
        advice = "check the connection's host, port and security, and that the server is running"
        raise ConnectError(f"{server}: no SMTP session ({exc}); {advice}") from exc
    finally:
        if not opened:
            connection.abort()
    return connection


async def _set_up(
    connection: SmtpConnection, transaction: Transaction, server: SmtpServer, context: ssl.SSLContext | None
) -> None:
    await asyncio.get_running_loop().create_connection(
        lambda: connection, server.host, server.port, ssl=context if server.security == "tls" else None
    )
    _require_code((await connection.greeting)[0], 220, Stage.GREETING)
    await _send_ehlo(connection, transaction, server)
    if server.security == "starttls":
        if "STARTTLS" not in connection.extensions or context is None:
            advice = "set disable_tls in the connection's extra only if you want plain text"
            raise ConnectError(f"{server} does not offer STARTTLS, which the connection requires; {advice}")
        _require_code((await connection.exchange(transaction, b"STARTTLS\r\n"))[0], 220, Stage.STARTTLS)
        await connection.start_tls(context, server.host)
        await _send_ehlo(connection, transaction, server)
    if server.username is not None and server.password is not None:
        await _authenticate(connection, transaction, server, server.username, server.password)


def _require_code(reply: Reply, code: int, stage: Stage) -> None:
    if reply.code != code:
        raise UnexpectedReply(reply, stage)


async def _send_ehlo(connection: SmtpConnection, transaction: Transaction, server: SmtpServer) -> None:
    name = (server.local_hostname or connection.local_name()).encode()
    (reply,) = await connection.exchange(transaction, b"EHLO %b\r\n" % name)
    if 500 <= reply.code < 600:
        # A server older than RFC 1869 (1995), or one whose extensions a firewall hides.
        (reply,) = await connection.exchange(transaction, b"HELO %b\r\n" % name)
        _require_code(reply, 250, Stage.EHLO)
        return
    _require_code(reply, 250, Stage.EHLO)
    for line in reply.text.split("\n")[1:]:
        keyword, _, parameters = line.replace("=", " ", 1).partition(" ")
        connection.extensions[keyword.upper()] = parameters.upper()


async def _authenticate(
    connection: SmtpConnection, transaction: Transaction, server: SmtpServer, username: str, password: str
) -> None:
    """AUTH PLAIN (RFC 4616), or LOGIN if only that is offered. The password is removed from the server's reply."""
    mechanisms = connection.extensions.get("AUTH", "").split()
    plain = _base64(f"\0{username}\0{password}")
    if "PLAIN" in mechanisms:
        (reply,) = await connection.exchange(transaction, b"AUTH PLAIN %b\r\n" % plain)
    elif "LOGIN" in mechanisms:
        (reply,) = await connection.exchange(transaction, b"AUTH LOGIN\r\n")
        for answer in (_base64(username), _base64(password)):
            if reply.code != 334:
                break
            (reply,) = await connection.exchange(transaction, answer + b"\r\n")
    else:
        offered = ", ".join(mechanisms) or "none"
        advice = "authentication needs PLAIN or LOGIN, which many servers offer only with TLS"
        raise ConnectError(f"{server} offers no supported authentication mechanism (offered: {offered}); {advice}")
    if reply.code != 235:
        text = reply.text
        for secret in (password, plain.decode(), _base64(password).decode()):
            text = text.replace(secret, "[hidden]")
        raise UnexpectedReply(Reply(reply.code, text), Stage.AUTH)


def _base64(text: str) -> bytes:
    return b2a_base64(text.encode(), newline=False)
