"""To whom an event goes: every endpoint that is subscribed, or one."""

from __future__ import annotations

import re

from backline.channels.webhook.content import ALL_ENDPOINTS
from backline.errors import InvalidInput

_ENDPOINT_ID = re.compile(r"ep_[0-9]{1,18}")


def parse_webhook_recipient(text: str, field: str) -> str:
    """`*`, or an endpoint's id; InvalidInput names the field. Whether there is such an endpoint the database knows."""
    if text == ALL_ENDPOINTS or _ENDPOINT_ID.fullmatch(text):
        return text
    raise InvalidInput(field, 'must be "*" for every endpoint subscribed, or the id of one, such as "ep_1"')
