"""SMTP submission on asyncio with pipelining between messages: the next envelope travels with the body before it (RFC 2920).

Knows nothing of Backline. `connect` gives an `SmtpConnection`, whose `exchange` writes commands and returns their replies.
`bench libraries` compares it with aiosmtplib, which waits for each reply.
"""

from smtp_pipeline.connection import (
    ConnectError,
    ConnectionBroken,
    SmtpConnection,
    SmtpServer,
    Transaction,
    UnexpectedReply,
    connect,
)
from smtp_pipeline.replies import Reply, Stage

__all__ = [
    "ConnectError", "ConnectionBroken", "Reply", "SmtpConnection", "SmtpServer", "Stage", "Transaction", "UnexpectedReply", "connect",
]  # fmt: skip
