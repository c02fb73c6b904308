"""What a message type says in a push notification."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class PushContent(NamedTuple):
    """A notification, and what the app on the device is told besides."""

    title: str
    body: str
    data: Mapping[str, str] = MappingProxyType({})
    ttl_seconds: int | None = None
    """How long the provider keeps it for a device that is off; None: four weeks, its longest. 0: now or never."""
    collapse_key: str | None = None
    """Of notifications with the same key a device that was off shows the last alone."""
