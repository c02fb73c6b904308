"""How large a notification may be: the rule of the payload and of the channel."""

from __future__ import annotations

import json

from backline.channels.base import PushContent
from backline.errors import InvalidInput

MAX_PAYLOAD_BYTES = 4096
"""Bytes of notification and data together that FCM accepts."""


def check_size(content: PushContent) -> None:
    """Raise InvalidInput for content that FCM does not accept."""
    body = {"notification": {"title": content.title, "body": content.body}, "data": dict(content.data)}
    size = len(json.dumps(body, ensure_ascii=False).encode())
    if size > MAX_PAYLOAD_BYTES:
        problem = f"title, body and data have {size} bytes; the limit is {MAX_PAYLOAD_BYTES}: shorten them"
        raise InvalidInput("data", problem)
