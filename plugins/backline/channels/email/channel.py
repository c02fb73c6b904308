"""The email channel: renders and builds a message once, and submits it to an SMTP server (RFC 5321, RFC 2920)."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from backline.channels.base import Attachment, EmailContent, Message, Receipt, SessionBusy, attempt_timeout, truncate
from backline.channels.email.mime import address_header, build_message
from backline.channels.email.replies import error_from_reply
from backline.channels.email.settings import EmailSettings
from backline.channels.email.turns import Turns
from backline.channels.recipients import parse_address
from backline.errors import BacklineError, InvalidInput, Misconfigured, NetworkFailure, Rejected, TimeoutFailure
from smtp_pipeline import (
    ConnectError,
    ConnectionBroken,
    Reply,
    SmtpConnection,
    SmtpServer,
    Stage,
    Transaction,
    UnexpectedReply,
    connect,
)

Command = tuple[Stage, str, str]
"""Stage, recipient if it concerns one, and the command's text."""
_MESSAGE_COMMANDS: tuple[Command, ...] = ((Stage.DATA, "", "DATA\r\n"), (Stage.BODY, "", ""))

_QUEUE_ID = re.compile(r"(?:queued as |\bid=|^(?:2\.\d\.\d )?ok:? )<?([^\s>]+)>?$", re.IGNORECASE | re.MULTILINE)
BUSY_SECONDS = 1.0
"""How long a message waits for the one before it on its connection, before another connection may take it."""
_MAX_TIMEOUT_SECONDS = 600.0
"""How long RFC 5321 section 4.5.3.2.6 lets a server take over its last reply."""
_MIN_BYTES_PER_SECOND = 128 * 1024
"""A slower connection may time out on a large attachment."""


class PreparedEmail(NamedTuple):
    """A built email: its envelope, and the bytes that follow DATA."""

    message_id: str
    """With its angle brackets; the same in every attempt."""
    sender: str
    recipients: tuple[str, ...]
    """The message's own recipient, then cc and bcc, without duplicates."""
    body: bytes
    """Dot-stuffed, with the final dot."""
    size: int
    """Bytes of the message, not dot-stuffed."""
    timeout: float
    """Seconds for one `send`, including the time to connect."""
    utf8: bool = False
    """Whether an address requires a server with SMTPUTF8."""

    def __repr__(self) -> str:
        """Without the body, which may hold secrets."""
        return f"PreparedEmail({self.message_id}, {self.size} bytes)"


class EmailChannel:
    """Channel of `PreparedEmail`s; `render` turns a message into its content."""

    name = "email"

    def __init__(self, settings: EmailSettings, server: SmtpServer, render: Callable[[Message], EmailContent]) -> None:
        self.connections = settings.connections
        self.messages_per_session = settings.messages_per_connection
        self._settings = settings
        self._server = server
        self._render = render
        self._context = server.tls_context()
        try:
            self._sender = parse_address(settings.from_address, "email.from_address")
            id_address = parse_address(f"id@{settings.message_id_domain}", "email.message_id_domain")
        except InvalidInput as exc:
            raise Misconfigured(f"{exc} (in backline.toml)") from None
        self._message_id_domain = id_address.addr_spec.partition("@")[2]
        self._from_header = address_header("From", (self._sender,))

    def prepare(self, message: Message) -> PreparedEmail:
        """Render and build the message; raises InvalidInput, naming the field, if that is impossible."""
        content = self._render(message)
        if content.attachments:
            self._check_attachments(content.attachments)
        to = parse_address(message.recipient, "to")
        cc = [parse_address(text, f"cc[{index}]") for index, text in enumerate(content.cc)]
        bcc = [parse_address(text, f"bcc[{index}]") for index, text in enumerate(content.bcc)]
        reply_to = parse_address(content.reply_to, "reply_to") if content.reply_to else None
        message_id = self._message_id(message)
        data = build_message(
            content,
            sender=self._from_header,
            to=to,
            cc=cc,
            reply_to=reply_to,
            message_id=message_id,
            date=int(time.time()),
        )
        seconds = attempt_timeout(self._settings.timeout_seconds, message.attempt, _MAX_TIMEOUT_SECONDS)
        recipients = (to.addr_spec, *[address.addr_spec for address in cc], *[address.addr_spec for address in bcc])
        return PreparedEmail(
            message_id=message_id,
            sender=self._sender.addr_spec,
            recipients=tuple(dict.fromkeys(recipients)) if len(recipients) > 1 else recipients,
            body=data.replace(b"\r\n.", b"\r\n..") + b".\r\n",
            size=len(data),
            timeout=seconds + len(data) / _MIN_BYTES_PER_SECOND,
            utf8=not (self._from_header + "".join(recipients) + (reply_to.addr_spec if reply_to else "")).isascii(),
        )

    def session(self) -> EmailSession:
        """A new session, not yet connected."""
        return EmailSession(self._server, self._context)

    def _message_id(self, message: Message) -> str:
        """The same in every attempt, so that receivers can recognize a repetition (RFC 5322 section 3.6.4)."""
        created = round(message.created_at.timestamp() * 1_000_000)
        return f"<backline.{message.id}.{created}@{self._message_id_domain}>"

    def _check_attachments(self, attachments: tuple[Attachment, ...]) -> None:
        limit = self._settings.attachment_max_mib
        total = sum(len(attachment.content) for attachment in attachments) / 2**20
        if total > limit:
            problem = f"have {total:.1f} MiB together; the limit is {limit:g} MiB (email.attachment_max_mib)"
            raise InvalidInput("attachments", problem)
        for index, attachment in enumerate(attachments):
            if attachment.content_type.lower() not in self._settings.attachment_types:
                known = ", ".join(sorted(self._settings.attachment_types))
                problem = f"{attachment.content_type!r} is not among email.attachment_types ({known})"
                raise InvalidInput(f"attachments[{index}].content_type", problem)


class EmailSession:
    """One persistent connection, opened by the first send and reopened after it breaks."""

    def __init__(self, server: SmtpServer, context: ssl.SSLContext | None) -> None:
        self.server = server
        self.connection: SmtpConnection | None = None
        self.needs_reset = False
        """Whether the server may still have an unfinished transaction."""
        self.turns = Turns(BUSY_SECONDS)
        """A message's turn lasts while its commands are written, from its envelope until its body."""
        self._tls_context = context

    async def send(self, prepared: PreparedEmail) -> Receipt:
        """Submit one message; after an error the server has not accepted it, unless the error says so.

        The next `send` may begin before this one ends: its envelope is then sent with this body (RFC 2920 section 3.1).
        A connection that turns out to be closed is replaced at once, unless the server may have the message. If the
        message's own recipient is refused, it is sent to no one; refused cc and bcc are listed in the receipt. SessionBusy
        if the server keeps another message waiting: it does not have this one.
        """
        await self.take_turn()
        return await _Delivery(self, prepared).run()

    async def take_turn(self) -> None:
        """Wait until no other message's commands are being written; SessionBusy if that takes long."""
        try:
            await self.turns.take()
        except TimeoutError:
            raise SessionBusy(self.turns.wait_until_free) from None

    async def close(self) -> None:
        """Close the connection; never raises."""
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.quit()

    async def get_connection(self, deadline: float) -> tuple[SmtpConnection, bool]:
        """The open connection, or a new one (True); it is the caller's turn."""
        if self.connection is not None and self.connection.usable:
            return self.connection, False
        # Never connected, or closed by the server, usually because it was idle for too long.
        self.discard(self.connection)
        try:
            self.connection = await connect(self.server, self._tls_context, deadline)
        except UnexpectedReply as exc:
            raise error_from_reply(exc.reply, exc.stage, str(self.server)) from exc
        except ConnectError as exc:
            raise NetworkFailure(str(exc)) from exc
        self.needs_reset = False
        return self.connection, True

    def discard(self, connection: SmtpConnection | None) -> None:
        """Abort a connection; a newer one that replaced it stays open."""
        if connection is not None:
            connection.abort()
        if self.connection is connection:
            self.connection = None


class _Delivery:
    """One message being sent over a session; it begins with its turn."""

    __slots__ = ("_connection", "_has_turn", "_prepared", "_session", "_transaction")

    def __init__(self, session: EmailSession, prepared: PreparedEmail) -> None:
        self._session = session
        self._prepared = prepared
        self._has_turn = True
        self._connection: SmtpConnection | None = None
        self._transaction = Transaction(asyncio.get_running_loop().time() + prepared.timeout, self._on_body_start)

    async def run(self) -> Receipt:
        """As `EmailSession.send`; its turn ends no later."""
        try:
            return await self._send()
        except BacklineError:
            # The server replied: commands and replies still match.
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
            self._end_turn()

    async def _send(self) -> Receipt:
        session, transaction = self._session, self._transaction
        while True:
            if not self._has_turn:
                await session.take_turn()
                self._has_turn = True
            connection, new = await session.get_connection(transaction.deadline)
            self._connection = connection
            try:
                return await self._transact(connection)
            except (BacklineError, ConnectionBroken):
                if new or connection.usable or transaction.body_sent:
                    raise

    async def _transact(self, connection: SmtpConnection) -> Receipt:
        prepared, transaction = self._prepared, self._transaction
        commands = self._envelope_commands(connection.extensions)
        self._session.needs_reset = True
        if "PIPELINING" not in connection.extensions:
            replies = await self._send_sequentially(connection, commands)
        elif len(prepared.recipients) == 1:
            commands += _MESSAGE_COMMANDS
            replies = await connection.exchange(transaction, _encode(commands), len(commands) - 1, prepared.body)
            if not transaction.body_sent and replies[-1].code == 354:
                # The recipient was refused, but DATA was already sent: the server waits for a message without
                # recipients (RFC 2920 section 3.1).
                with suppress(ConnectionBroken):
                    await connection.exchange(transaction, b".\r\n")
        else:
            # DATA is sent only after the first recipient was accepted: if it were refused, the others would get an
            # empty message.
            replies = await connection.exchange(transaction, _encode(commands), len(commands))
        refused = self._check_replies(commands, replies)
        if not transaction.body_sent:
            replies = await connection.exchange(transaction, b"DATA\r\n", 1, prepared.body)
            self._check_replies(_MESSAGE_COMMANDS, replies)
        reply = replies[-1]
        queue_id = _QUEUE_ID.search(reply.text)
        provider_id = queue_id[1] if queue_id else prepared.message_id
        return Receipt(reply.status, truncate(reply.text), provider_id, refused)

    def _on_body_start(self) -> None:
        """The body is about to be written: whatever the reply to it, it ends the transaction."""
        self._session.needs_reset = False
        if self._connection is not None and "PIPELINING" in self._connection.extensions:
            self._end_turn()

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._session.turns.pass_on()

    def _check_replies(self, commands: Sequence[Command], replies: list[Reply]) -> tuple[tuple[str, str], ...]:
        """The refused cc and bcc recipients; raises if the message itself was refused."""
        refused = []
        first_recipient = ""
        for (stage, recipient, _), reply in zip(commands, replies, strict=False):
            first_recipient = first_recipient or recipient
            if reply.code == 354 if stage is Stage.DATA else reply.code < 300:
                continue
            if stage is not Stage.RCPT or recipient == first_recipient or reply.code == 421:
                raise error_from_reply(reply, stage, str(self._session.server), recipient)
            refused.append((recipient, truncate(str(reply))))
        return tuple(refused)

    def _envelope_commands(self, extensions: Mapping[str, str]) -> list[Command]:
        prepared, server = self._prepared, self._session.server
        limit = extensions.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit) < prepared.size:
            text = (
                f"the message has {prepared.size} bytes, {server} accepts at most {limit}; make the attachments smaller"
            )
            raise Rejected(text, code="552 5.3.4")
        if prepared.utf8 and "SMTPUTF8" not in extensions:
            text = f"{server} does not accept addresses with international characters before the '@' (RFC 6531)"
            raise Rejected(text, code="553 5.6.7")
        size = f" SIZE={prepared.size}" if "SIZE" in extensions else ""
        utf8 = " BODY=8BITMIME SMTPUTF8" if prepared.utf8 else ""
        commands: list[Command] = [(Stage.RESET, "", "RSET\r\n")] if self._session.needs_reset else []
        commands.append((Stage.MAIL, "", f"MAIL FROM:<{prepared.sender}>{size}{utf8}\r\n"))
        commands += [(Stage.RCPT, recipient, f"RCPT TO:<{recipient}>\r\n") for recipient in prepared.recipients]
        return commands

    async def _send_sequentially(self, connection: SmtpConnection, commands: list[Command]) -> list[Reply]:
        """Without PIPELINING, up to the first refusal that leaves no recipient."""
        replies: list[Reply] = []
        for command in commands:
            replies += await connection.exchange(self._transaction, command[2].encode())
            self._check_replies(commands, replies)
        return replies

    def _discard_connection(self) -> str:
        """Abort the connection; returns what an error should add about the message's outcome."""
        if self._connection is not None:
            self._session.discard(self._connection)
        return "; outcome unknown: it may have accepted the message" if self._transaction.body_sent else ""


def _encode(commands: Sequence[Command]) -> bytes:
    return "".join([command[2] for command in commands]).encode()
