"""The email channel: renders and builds a message once, and submits it to an SMTP server."""

from __future__ import annotations

import time
from collections.abc import Callable

from backline.channels.base import Message
from backline.channels.content import Attachment, EmailContent
from backline.channels.email.addresses import parse_address
from backline.channels.email.headers import address_header
from backline.channels.email.mime import build_message
from backline.channels.email.server import SmtpServer
from backline.channels.email.session import EmailSession, PreparedEmail
from backline.channels.settings import EmailSettings
from backline.errors import InvalidInput, Misconfigured

_MAX_TIMEOUT_SECONDS = 600.0
"""How long RFC 5321 section 4.5.3.2.6 lets a server take over its last reply."""
_MIN_BYTES_PER_SECOND = 128 * 1024
"""A slower connection may time out on a large attachment."""


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
        recipients = (to.addr_spec, *[address.addr_spec for address in cc], *[address.addr_spec for address in bcc])
        return PreparedEmail(
            message_id=message_id,
            sender=self._sender.addr_spec,
            recipients=tuple(dict.fromkeys(recipients)) if len(recipients) > 1 else recipients,
            body=data.replace(b"\r\n.", b"\r\n..") + b".\r\n",
            size=len(data),
            timeout=self._timeout(message.attempt, len(data)),
            utf8=not (self._from_header + "".join(recipients) + (reply_to.addr_spec if reply_to else "")).isascii(),
        )

    def session(self) -> EmailSession:
        """A new session, not yet connected."""
        return EmailSession(self._server, self._context)

    def _message_id(self, message: Message) -> str:
        """The same in every attempt, so that receivers can recognize a repetition (RFC 5322 section 3.6.4)."""
        created = round(message.created_at.timestamp() * 1_000_000)
        return f"<backline.{message.id}.{created}@{self._message_id_domain}>"

    def _timeout(self, attempt: int, size: int) -> float:
        """Doubles with every attempt."""
        seconds = self._settings.timeout_seconds * 2.0 ** min(attempt - 1, 10)
        return min(seconds, _MAX_TIMEOUT_SECONDS) + size / _MIN_BYTES_PER_SECOND

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
