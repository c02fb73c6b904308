"""What a webhook message says, before it is signed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

ALL_ENDPOINTS = "*"
"""The recipient that stands for every endpoint subscribed."""


class WebhookContent(NamedTuple):
    """One event. Id and time are the same at every try, every replay and for every endpoint."""

    event_id: str
    event_type: str
    occurred_at: datetime
    data: Mapping[str, Any]
