"""The email channel: built here as MIME, handed to an SMTP server over kept, pipelined connections."""

from __future__ import annotations

from backline.channels.email.channel import EmailChannel
from backline.channels.email.content import Attachment, EmailContent
from backline.channels.email.server import SmtpServer
from backline.channels.email.session import EmailSession, PreparedEmail

__all__ = ["Attachment", "EmailChannel", "EmailContent", "EmailSession", "PreparedEmail", "SmtpServer"]
