"""Hands one message after the other to an SMTP server over one kept connection (RFC 5321, RFC 2920)."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from backline.channels.base import Receipt, truncate
from backline.channels.email.connection import ConnectionBroken, SmtpConnection, Transaction, connect
from backline.channels.email.replies import Reply, Stage, error_from_reply
from backline.channels.email.server import SmtpServer
from backline.errors import BacklineError, NetworkFailure, Rejected, TimeoutFailure

Command = tuple[Stage, str, str]
"""What is asked, for which recipient, in which words."""
_MESSAGE_COMMANDS: tuple[Command, ...] = ((Stage.DATA, "", "DATA\r\n"), (Stage.BODY, "", ""))

_QUEUE_ID = re.compile(r"(?:queued as |\bid=|^(?:2\.\d\.\d )?ok:? )<?([^\s>]+)>?$", re.IGNORECASE | re.MULTILINE)


class PreparedEmail(NamedTuple):
    """A built email: what is said in the envelope, and the bytes that follow DATA."""

    message_id: str
    """With its angle brackets; the same at every try."""
    sender: str
    recipients: tuple[str, ...]
    """The one whom the message is for, then cc and bcc, each once."""
    body: bytes
    """Dot-stuffed, with the final dot."""
    size: int
    """Bytes of the message itself."""
    timeout: float
    """Seconds for all of one `send`, connecting included."""
    utf8: bool = False
    """Whether an address needs a server with SMTPUTF8."""

    def __repr__(self) -> str:
        """Without the body, which may hold secrets."""
        return f"PreparedEmail({self.message_id}, {self.size} bytes)"


class EmailSession:
    """One kept connection; it connects at the first send, and again after it broke."""

    def __init__(self, server: SmtpServer, context: ssl.SSLContext | None) -> None:
        self.server = server
        self.connection: SmtpConnection | None = None
        self.needs_reset = False
        """Whether the server may still hold a half-made transaction."""
        self.pipeline_lock = asyncio.Lock()
        """Whose commands are written: held from a message's envelope until its body is on its way."""
        self._tls_context = context

    async def send(self, prepared: PreparedEmail) -> Receipt:
        """Hand one message over. After an error the server has not taken it, unless the error says so.

        May be called for the next message while this one is under way: that one's envelope then travels with this
        body (RFC 2920 section 3.1). A kept connection that turns out to be closed is replaced at once, as long as the
        server cannot have the message. If the message's own recipient is refused nobody gets it; refused cc and bcc
        are named in the receipt. A cancelled send drops its connection.
        """
        await self.pipeline_lock.acquire()
        return await _Delivery(self, prepared).run()

    async def close(self) -> None:
        """Say goodbye; never raises."""
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.quit()

    async def get_connection(self, deadline: float) -> tuple[SmtpConnection, bool]:
        """The kept connection, or a new one (True) where there is none; the wire must be held."""
        if self.connection is not None and self.connection.usable:
            return self.connection, False
        # Never connected, or closed by the server since: mostly because it was idle for too long.
        self.discard(self.connection)
        self.connection = await connect(self.server, self._tls_context, deadline)
        self.needs_reset = False
        return self.connection, True

    def discard(self, connection: SmtpConnection | None) -> None:
        """End a connection at once; one that took its place stays."""
        if connection is not None:
            connection.abort()
        if self.connection is connection:
            self.connection = None


class _Delivery:
    """One message on its way through a session whose wire it holds."""

    __slots__ = ("_connection", "_holds_lock", "_prepared", "_session", "_transaction")

    def __init__(self, session: EmailSession, prepared: PreparedEmail) -> None:
        self._session = session
        self._prepared = prepared
        self._holds_lock = True
        self._connection: SmtpConnection | None = None
        self._transaction = Transaction(asyncio.get_running_loop().time() + prepared.timeout, self._on_body_start)

    async def run(self) -> Receipt:
        """As `EmailSession.send`; in the end the wire is free."""
        try:
            return await self._send()
        except BacklineError:
            # An answer: the dialogue is still in step.
            raise
        except TimeoutError as exc:
            text = f"{self._session.server} did not answer within {self._prepared.timeout:g} s"
            raise TimeoutFailure(text + self._discard_connection()) from exc
        except ConnectionBroken as exc:
            text = f"{self._session.server}: the connection broke ({exc})"
            raise NetworkFailure(text + self._discard_connection()) from exc
        except BaseException:
            self._discard_connection()
            raise
        finally:
            self._release_lock()

    async def _send(self) -> Receipt:
        session, transaction = self._session, self._transaction
        while True:
            if not self._holds_lock:
                await session.pipeline_lock.acquire()
                self._holds_lock = True
            connection, new = await session.get_connection(transaction.deadline)
            self._connection = connection
            try:
                return await self._transact(connection)
            except (BacklineError, ConnectionBroken):
                if new or connection.usable or transaction.body_sent:
                    raise

    async def _transact(self, connection: SmtpConnection) -> Receipt:
        prepared, transaction = self._prepared, self._transaction
        steps = self._envelope_commands(connection.extensions)
        self._session.needs_reset = True
        if "PIPELINING" not in connection.extensions:
            replies = await self._send_sequentially(connection, steps)
            refused = self._check_replies(steps, replies)
        elif len(prepared.recipients) == 1:
            steps += _MESSAGE_COMMANDS
            commands = "".join([step[2] for step in steps]).encode()
            replies = await connection.exchange(transaction, commands, len(steps) - 1, prepared.body)
            if not transaction.body_sent and replies[-1].code == 354:
                # Refused, but DATA was on its way already: the server waits for a message to nobody (RFC 2920
                # section 3.1).
                with suppress(ConnectionBroken):
                    await connection.exchange(transaction, b".\r\n")
            refused = self._check_replies(steps, replies)
        else:
            # DATA waits until the first recipient is known to be taken: otherwise, were that one refused, the
            # others would get an empty message.
            commands = "".join([step[2] for step in steps]).encode()
            replies = await connection.exchange(transaction, commands, len(steps))
            refused = self._check_replies(steps, replies)
        if not transaction.body_sent:
            replies = await connection.exchange(transaction, b"DATA\r\n", 1, prepared.body)
            self._check_replies(_MESSAGE_COMMANDS, replies)
        reply = replies[-1]
        queue_id = _QUEUE_ID.search(reply.text)
        provider_id = queue_id[1] if queue_id else prepared.message_id
        return Receipt(reply.status, truncate(reply.text), provider_id, refused)

    def _on_body_start(self) -> None:
        """The body is about to be written: whatever its answer, it ends the transaction."""
        self._session.needs_reset = False
        if self._connection is not None and "PIPELINING" in self._connection.extensions:
            self._release_lock()

    def _release_lock(self) -> None:
        if self._holds_lock:
            self._holds_lock = False
            self._session.pipeline_lock.release()

    def _check_replies(self, steps: Sequence[Command], replies: list[Reply]) -> tuple[tuple[str, str], ...]:
        """The refused cc and bcc; raises when the message itself was refused."""
        refused = []
        wanted = ""
        for (stage, recipient, _), reply in zip(steps, replies, strict=False):
            wanted = wanted or recipient
            if reply.code == 354 if stage is Stage.DATA else reply.code < 300:
                continue
            if stage is not Stage.RCPT or recipient == wanted or reply.code == 421:
                raise error_from_reply(reply, stage, str(self._session.server), recipient)
            refused.append((recipient, truncate(str(reply))))
        return tuple(refused)

    def _envelope_commands(self, offered: Mapping[str, str]) -> list[Command]:
        prepared, server = self._prepared, self._session.server
        limit = offered.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit) < prepared.size:
            text = (
                f"the message has {prepared.size} bytes, {server} takes at most {limit}; make the attachments smaller"
            )
            raise Rejected(text, code="552 5.3.4")
        if prepared.utf8 and "SMTPUTF8" not in offered:
            text = f"{server} does not take addresses with international characters before the '@' (RFC 6531)"
            raise Rejected(text, code="553 5.6.7")
        size = f" SIZE={prepared.size}" if "SIZE" in offered else ""
        utf8 = " BODY=8BITMIME SMTPUTF8" if prepared.utf8 else ""
        steps: list[Command] = [(Stage.RESET, "", "RSET\r\n")] if self._session.needs_reset else []
        steps.append((Stage.MAIL, "", f"MAIL FROM:<{prepared.sender}>{size}{utf8}\r\n"))
        steps += [(Stage.RCPT, recipient, f"RCPT TO:<{recipient}>\r\n") for recipient in prepared.recipients]
        return steps

    async def _send_sequentially(self, connection: SmtpConnection, steps: list[Command]) -> list[Reply]:
        """Without PIPELINING, up to the first refusal that leaves nobody to send to."""
        replies: list[Reply] = []
        for step in steps:
            replies += await connection.exchange(self._transaction, step[2].encode())
            self._check_replies(steps, replies)
        return replies

    def _discard_connection(self) -> str:
        """Drop the connection; what an error should add about the message's fate."""
        if self._connection is not None:
            self._session.discard(self._connection)
        return "; outcome unknown: it may have taken the message" if self._transaction.body_sent else ""
