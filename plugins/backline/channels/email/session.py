"""Hands one message after the other to an SMTP server over one kept connection (RFC 5321, RFC 2920)."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from typing import NamedTuple

from backline.channels.base import Receipt
from backline.channels.email.connection import ConnectionBroken, SmtpConnection, connect
from backline.channels.email.replies import Reply, Stage, cut, failure
from backline.channels.email.server import SmtpServer
from backline.errors import BacklineError, NetworkFailure, Rejected, TimeoutFailure

Step = tuple[Stage, str, str]
"""What is asked, for which recipient, in which words."""

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


class EmailSession:
    """One kept connection; it connects at the first send, and again after it broke."""

    def __init__(self, server: SmtpServer, context: ssl.SSLContext | None) -> None:
        self._server = server
        self._context = context
        self._connection: SmtpConnection | None = None
        self._unclean = False
        """Whether the server may still hold a half-made transaction."""
        self._handed_over = False
        """Whether the server may have the whole message."""

    async def send(self, prepared: PreparedEmail) -> Receipt:
        """Hand one message over; one at a time. After an error the server has not taken it, unless the error says so.

        A kept connection that turns out to be closed is replaced at once, as long as the server cannot
        have the message. If the message's own recipient is refused nobody gets it; refused cc and bcc are
        named in the receipt. A cancelled send drops its connection.
        """
        self._handed_over = False
        in_step = False
        try:
            async with asyncio.timeout(prepared.timeout):
                receipt = await self._send(prepared)
            in_step = True
            return receipt
        except TimeoutError as exc:
            text = f"{self._server} did not answer within {prepared.timeout:g} s"
            raise TimeoutFailure(text + self._outcome()) from exc
        except ConnectionBroken as exc:
            raise NetworkFailure(f"{self._server}: the connection broke ({exc})" + self._outcome()) from exc
        except BacklineError:
            in_step = True
            raise
        finally:
            if not in_step:
                self._drop()

    async def close(self) -> None:
        """Say goodbye; never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.quit()

    async def _send(self, prepared: PreparedEmail) -> Receipt:
        connection = self._connection
        if connection is not None and connection.usable:
            try:
                return await self._transact(connection, prepared)
            except (BacklineError, ConnectionBroken):
                if connection.usable or self._handed_over:
                    raise
        # Never connected, or closed by the server since: mostly because it was idle for too long.
        self._drop()
        self._connection = connection = await connect(self._server, self._context)
        return await self._transact(connection, prepared)

    async def _transact(self, connection: SmtpConnection, prepared: PreparedEmail) -> Receipt:
        offered = connection.extensions
        steps = self._envelope(offered, prepared)
        self._unclean = True
        pipelining = "PIPELINING" in offered
        if pipelining:
            replies = await connection.exchange("".join([step[2] for step in steps]).encode(), len(steps))
        else:
            replies = await self._one_by_one(connection, steps)
        refused = []
        for (stage, recipient, _), reply in zip(steps, replies, strict=False):
            if reply.code < 300 or (stage is Stage.DATA and reply.code == 354):
                continue
            if stage is Stage.RCPT and recipient != prepared.recipients[0] and reply.code != 421:
                refused.append((recipient, cut(str(reply))))
                continue
            if replies[-1].code == 354:
                # DATA was already on its way: the server waits for a message to nobody (RFC 2920 section 3.1).
                await connection.exchange(b".\r\n")
            raise failure(reply, stage, str(self._server), recipient)
        if replies[-1].code != 354:
            (reply,) = await connection.exchange(b"DATA\r\n")
            if reply.code != 354:
                raise failure(reply, Stage.DATA, str(self._server))
        self._handed_over = True
        (reply,) = await connection.exchange(prepared.body)
        if not 200 <= reply.code < 300:
            raise failure(reply, Stage.BODY, str(self._server))
        self._unclean = False
        queue_id = _QUEUE_ID.search(reply.text)
        provider_id = queue_id[1] if queue_id else prepared.message_id
        return Receipt(reply.status, cut(reply.text), provider_id, tuple(refused))

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
        # With several recipients DATA waits until the first is known to be taken: otherwise, were that one
        # refused, the others would get an empty message.
        if len(prepared.recipients) == 1:
            steps.append((Stage.DATA, "", "DATA\r\n"))
        return steps

    async def _one_by_one(self, connection: SmtpConnection, steps: list[Step]) -> list[Reply]:
        """As without PIPELINING, up to the first refusal that leaves nobody to send to."""
        replies: list[Reply] = []
        for stage, _, command in steps:
            replies += await connection.exchange(command.encode())
            first_recipient = stage is Stage.RCPT and steps[len(replies) - 2][0] is not Stage.RCPT
            if replies[-1].code >= 400 and (stage is not Stage.RCPT or first_recipient or replies[-1].code == 421):
                break
        return replies

    def _outcome(self) -> str:
        return "; outcome unknown: it may have taken the message" if self._handed_over else ""

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.abort()
        self._connection = None
        self._unclean = False
