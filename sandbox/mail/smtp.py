"""A minimal SMTP server for loopback (RFC 5321).

It offers PIPELINING (RFC 2920), SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), enhanced status codes
(RFC 2034) and an AUTH (RFC 4954) that accepts any credentials. Not aiosmtpd, which takes about 1 ms of CPU per
message, several times what is needed here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import cast

from sandbox.mail.faults import MailFaults, Stage
from sandbox.mail.mailbox import Mailbox
from sandbox.mail.smtp_commands import MESSAGE_SIZE_LIMIT, MESSAGE_TOO_BIG, CommandRejected, parse_mail, parse_rcpt

RECIPIENT_LIMIT = 1000
LINE_LIMIT = 4096

_CAPABILITIES = ("PIPELINING", f"SIZE {MESSAGE_SIZE_LIMIT}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
_EHLO = "".join(f"250-{line}\r\n" for line in ("localhost", *_CAPABILITIES)) + "250 AUTH PLAIN LOGIN"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DATA_END = b"\r\n.\r\n"


class SmtpSession(asyncio.Protocol):
    """One connection. Commands are handled as they arrive; the replies of a pipelined group are sent in one write."""

    def __init__(self, mailbox: Mailbox, faults: MailFaults, sessions: set[SmtpSession]) -> None:
        self._mailbox = mailbox
        self._faults = faults
        self._sessions = sessions
        self._buffer = bytearray()
        self._scanned = 0
        self._replies: list[str] = []
        self._receiving = self._too_big = self._greeted = self._closed = False
        self._auth_lines_left = 0
        self._delay_timer: asyncio.TimerHandle | None = None
        self._reset()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the greeting, unless a fault rule applies."""
        self._transport = cast("asyncio.Transport", transport)
        self._sessions.add(self)
        self._reply_or_inject_fault("connect", (), lambda: "220 localhost Backline mail catcher ESMTP")
        self._flush()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Discard the session and its timer."""
        self._closed = True
        self._sessions.discard(self)
        if self._delay_timer:
            self._delay_timer.cancel()

    def pause_writing(self) -> None:
        """Stop reading while the client does not read its replies."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Resume reading."""
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Handle every complete command in the buffer."""
        self._buffer += data
        self._process_buffer()

    def abort(self) -> None:
        """Abort the connection."""
        self._transport.abort()

    def _process_buffer(self) -> None:
        while (
            not self._delay_timer and not self._closed and (self._read_data() if self._receiving else self._read_line())
        ):
            pass
        self._flush()

    def _flush(self) -> None:
        if self._replies:
            self._transport.write(("\r\n".join(self._replies) + "\r\n").encode())
            self._replies.clear()
        if self._closed:
            self._transport.close()

    def _reply_or_inject_fault(self, stage: Stage, recipients: tuple[str, ...], proceed: Callable[[], str]) -> None:
        """Reply with what `proceed` returns, unless a fault rule applies."""
        rule = self._faults.match(stage, recipients)
        if rule is None:
            self._replies.append(proceed())
        elif rule.action in {"reply", "garbage"}:
            self._replies.append(rule.reply)
            self._closed = stage == "connect" or rule.reply.startswith("421")
        else:
            early = proceed() if rule.after else None
            if rule.action == "drop":
                self._closed = True
            else:
                self._delay_timer = asyncio.get_running_loop().call_later(
                    rule.seconds, self._resume, (lambda: early) if early is not None else proceed
                )

    def _resume(self, proceed: Callable[[], str]) -> None:
        self._delay_timer = None
        self._replies.append(proceed())
        self._process_buffer()

    def _read_line(self) -> bool:
        end = self._buffer.find(b"\n")
        if end < 0 and len(self._buffer) <= LINE_LIMIT:
            return False
        raw = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        if end < 0 or len(raw) > LINE_LIMIT:
            self._replies.append("500 5.5.2 Line too long")
            self._closed = True
            return False
        try:
            line = raw.decode()
        except UnicodeDecodeError:
            line = "\0"
        if _CONTROL.search(line):  # a bare CR or LF in an address would forge a header in the stored file
            self._replies.append("500 5.5.2 Line is not clean UTF-8")
        elif self._auth_lines_left:
            self._handle_auth_line(line)
        else:
            verb, _, argument = line.partition(" ")
            try:
                self._handle_command(verb.upper(), argument.strip())
            except CommandRejected as exc:
                self._replies.append(str(exc))
        return True

    def _read_data(self) -> bool:
        buffer = self._buffer
        if buffer.startswith(b".\r\n") and not self._too_big:
            end = 0
        else:
            end = buffer.find(_DATA_END, max(0, self._scanned - 4)) + 2
        if end == 1:
            self._scanned = len(buffer)
            if self._scanned > MESSAGE_SIZE_LIMIT:
                self._too_big = True
                self._scanned = 4
                del buffer[:-4]
            return False
        content = bytes(buffer[:end])
        del buffer[: end + 3]
        too_big = self._too_big or end > MESSAGE_SIZE_LIMIT
        sender, recipients = self._sender or "", tuple(self._recipients)
        self._reset()
        if too_big:
            self._replies.append(MESSAGE_TOO_BIG)
            return True
        if b"\r\n." in content or content.startswith(b"."):  # RFC 5321 section 4.5.2: one leading dot goes
            content = content.removeprefix(b".").replace(b"\r\n.", b"\r\n")
        self._reply_or_inject_fault("data", recipients, lambda: self._store(sender, recipients, content))
        return True

    def _store(self, sender: str, recipients: tuple[str, ...], content: bytes) -> str:
        try:
            entry = self._mailbox.store(sender, recipients, content)
        except OSError as exc:
            return f"452 4.3.1 Cannot write the Maildir ({exc.strerror})"
        return f"250 2.0.0 Stored as {entry.id}"

    def _reset(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._utf8 = self._receiving = self._too_big = False
        self._scanned = 0

    def _handle_command(self, verb: str, argument: str) -> None:
        reply = self._replies.append
        if verb == "MAIL":
            self._handle_mail(argument)
        elif verb == "RCPT":
            self._handle_rcpt(argument)
        elif verb == "DATA":
            if not self._recipients:
                raise CommandRejected("503 5.5.1 No valid recipients")
            self._receiving = True
            reply("354 End with a dot on its own line")
        elif verb in ("EHLO", "HELO"):
            self._reset()
            self._greeted = True
            reply(_EHLO if verb == "EHLO" else "250 localhost")
        elif verb == "AUTH":
            self._handle_auth(argument)
        elif verb in ("RSET", "NOOP"):
            if verb == "RSET":
                self._reset()
            reply("250 2.0.0 Ok")
        elif verb == "QUIT":
            reply("221 2.0.0 Bye")
            self._closed = True
        else:
            reply("502 5.5.1 Command not offered")

    def _handle_mail(self, argument: str) -> None:
        if not self._greeted:
            raise CommandRejected("503 5.5.1 Say EHLO first")
        if self._sender is not None:
            raise CommandRejected("503 5.5.1 A message is under way")
        sender, self._utf8 = parse_mail(argument)
        self._reply_or_inject_fault("mail", (), lambda: self._accept_sender(sender))

    def _accept_sender(self, address: str) -> str:
        self._sender = address
        return "250 2.1.0 Ok"

    def _handle_rcpt(self, argument: str) -> None:
        if self._sender is None:
            raise CommandRejected("503 5.5.1 Send MAIL first")
        if len(self._recipients) >= RECIPIENT_LIMIT:
            raise CommandRejected("452 4.5.3 Too many recipients")
        recipient = parse_rcpt(argument, utf8=self._utf8)
        self._reply_or_inject_fault("rcpt", (recipient,), lambda: self._accept_recipient(recipient))

    def _accept_recipient(self, address: str) -> str:
        self._recipients.append(address)
        return "250 2.1.5 Ok"

    def _handle_auth(self, argument: str) -> None:
        mechanism, _, first = argument.partition(" ")
        needed = {"PLAIN": 1, "LOGIN": 2}.get(mechanism.upper())
        if needed is None:
            raise CommandRejected("504 5.5.4 Use PLAIN or LOGIN")
        self._auth_lines_left = needed
        if first:
            self._handle_auth_line(first)
        else:
            self._replies.append("334 VXNlcm5hbWU6" if needed == 2 else "334 ")

    def _handle_auth_line(self, line: str) -> None:
        self._auth_lines_left = 0 if line == "*" else self._auth_lines_left - 1
        if line == "*":
            self._replies.append("501 5.7.0 Authentication cancelled")
        else:
            self._replies.append("334 UGFzc3dvcmQ6" if self._auth_lines_left else "235 2.7.0 Welcome")
