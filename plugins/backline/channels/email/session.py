"""Hands one message after the other to an SMTP server over one kept connection (RFC 5321, RFC 2920)."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from backline.channels.base import Receipt
from backline.channels.email.connection import ConnectionBroken, SmtpConnection, connect
from backline.channels.email.replies import Reply, Stage, cut, failure
from backline.channels.email.server import SmtpServer
from backline.errors import BacklineError, NetworkFailure, Rejected, TimeoutFailure

Step = tuple[Stage, str, str]
"""What is asked, for which recipient, in which words."""
_MESSAGE: tuple[Step, ...] = ((Stage.DATA, "", "DATA\r\n"), (Stage.BODY, "", ""))

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
        self._server = server
        self._context = context
        self._connection: SmtpConnection | None = None
        self._unclean = False
        """Whether the server may still hold a half-made transaction."""

    async def send(self, prepared: PreparedEmail) -> Receipt:
        """Hand one message over; one at a time. After an error the server has not taken it, unless the error says so.

        A kept connection that turns out to be closed is replaced at once, as long as the server cannot
        have the message. If the message's own recipient is refused nobody gets it; refused cc and bcc are
        named in the receipt. A cancelled send drops its connection.
        """
        try:
            return await self._send(prepared, asyncio.get_running_loop().time() + prepared.timeout)
        except BacklineError:
            # An answer: the dialogue is still in step.
            raise
        except TimeoutError as exc:
            text = f"{self._server} did not answer within {prepared.timeout:g} s"
            raise TimeoutFailure(text + self._abandon()) from exc
        except ConnectionBroken as exc:
            raise NetworkFailure(f"{self._server}: the connection broke ({exc})" + self._abandon()) from exc
        except BaseException:
            self._abandon()
            raise

    async def close(self) -> None:
        """Say goodbye; never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.quit()

    async def _send(self, prepared: PreparedEmail, deadline: float) -> Receipt:
        connection = self._connection
        if connection is not None and connection.usable:
            try:
                connection.begin(deadline)
                return await self._transact(connection, prepared)
            except (BacklineError, ConnectionBroken):
                if connection.usable or connection.body_sent:
                    raise
        # Never connected, or closed by the server since: mostly because it was idle for too long.
        self._abandon()
        async with asyncio.timeout_at(deadline):
            self._connection = connection = await connect(self._server, self._context)
        connection.begin(deadline)
        return await self._transact(connection, prepared)

    async def _transact(self, connection: SmtpConnection, prepared: PreparedEmail) -> Receipt:
        steps = self._envelope(connection.extensions, prepared)
        self._unclean = True
        if "PIPELINING" not in connection.extensions:
            replies = await self._one_by_one(connection, steps)
            refused = self._check(steps, replies)
        elif len(prepared.recipients) == 1:
            steps += _MESSAGE
            commands = "".join([step[2] for step in steps]).encode()
            replies = await connection.exchange(commands, len(steps) - 1, prepared.body)
            if not connection.body_sent and replies[-1].code == 354:
                # Refused, but DATA was on its way already: the server waits for a message to nobody (RFC 2920
                # section 3.1).
                with suppress(ConnectionBroken):
                    await connection.exchange(b".\r\n")
            refused = self._check(steps, replies)
        else:
            # DATA waits until the first recipient is known to be taken: otherwise, were that one refused, the
            # others would get an empty message.
            replies = await connection.exchange("".join([step[2] for step in steps]).encode(), len(steps))
            refused = self._check(steps, replies)
        if not connection.body_sent:
            replies = await connection.exchange(b"DATA\r\n", 1, prepared.body)
            self._check(_MESSAGE, replies)
        self._unclean = False
        reply = replies[-1]
        queue_id = _QUEUE_ID.search(reply.text)
        provider_id = queue_id[1] if queue_id else prepared.message_id
        return Receipt(reply.status, cut(reply.text), provider_id, refused)

    def _check(self, steps: Sequence[Step], replies: list[Reply]) -> tuple[tuple[str, str], ...]:
        """The refused cc and bcc; raises when the message itself was refused."""
        refused = []
        wanted = ""
        for (stage, recipient, _), reply in zip(steps, replies, strict=False):
            wanted = wanted or recipient
            if reply.code == 354 if stage is Stage.DATA else reply.code < 300:
                continue
            if stage is not Stage.RCPT or recipient == wanted or reply.code == 421:
                raise failure(reply, stage, str(self._server), recipient)
            refused.append((recipient, cut(str(reply))))
        return tuple(refused)

    def _envelope(self, offered: Mapping[str, str], prepared: PreparedEmail) -> list[Step]:
        limit = offered.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit) < prepared.size:
            text = f"the message has {prepared.size} bytes, {self._server} takes at most {limit}; make the attachments smaller"
            raise Rejected(text, code="552 5.3.4")
        if prepared.utf8 and "SMTPUTF8" not in offered:
            text = f"{self._server} does not take addresses with international characters before the '@' (RFC 6531)"
            raise Rejected(text, code="553 5.6.7")
        size = f" SIZE={prepared.size}" if "SIZE" in offered else ""
        utf8 = " BODY=8BITMIME SMTPUTF8" if prepared.utf8 else ""
        steps: list[Step] = [(Stage.RESET, "", "RSET\r\n")] if self._unclean else []
        steps.append((Stage.MAIL, "", f"MAIL FROM:<{prepared.sender}>{size}{utf8}\r\n"))
        steps += [(Stage.RCPT, recipient, f"RCPT TO:<{recipient}>\r\n") for recipient in prepared.recipients]
        return steps

    async def _one_by_one(self, connection: SmtpConnection, steps: list[Step]) -> list[Reply]:
        """Without PIPELINING, up to the first refusal that leaves nobody to send to."""
        replies: list[Reply] = []
        for step in steps:
            replies += await connection.exchange(step[2].encode())
            self._check(steps, replies)
        return replies

    def _abandon(self) -> str:
        """Drop the connection; what an error should add about the message's fate."""
        connection, self._connection = self._connection, None
        self._unclean = False
        if connection is None:
            return ""
        connection.abort()
        return "; outcome unknown: it may have taken the message" if connection.body_sent else ""
