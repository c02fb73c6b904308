"""The messages that a gateway accepted: the newest ten thousand, in memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any

MESSAGE_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One message. `id` is its arrival time in microseconds since 1970, made unique, so ids grow in arrival order."""

    id: int
    to: str
    title: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the request and the response."""

    @property
    def arrived_at(self) -> float:
        """Arrival time in seconds since 1970."""
        return self.id / 1_000_000

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id,
            "arrived_at": self.arrived_at,
            "to": self.to,
            "title": self.title,
            "text": self.text,
            **self.details,
        }


class Inbox:
    """The messages of one gateway, newest last."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, to: str, title: str, text: str, details: Mapping[str, Any]) -> Entry:
        """Store one message; drops the oldest over MESSAGE_LIMIT."""
        self._last_id = max(time.time_ns() // 1000, self._last_id + 1)
        entry = self._entries[self._last_id] = Entry(self._last_id, to, title, text, details)
        if len(self._entries) > MESSAGE_LIMIT:
            del self._entries[next(iter(self._entries))]
        return entry

    def get(self, entry_id: int) -> Entry | None:
        """The message with this id, or None."""
        return self._entries.get(entry_id)

    def find(
        self, *, to: str = "", text: str = "", since: float | None = None, before: int | None = None
    ) -> Iterator[Entry]:
        """The matching messages, newest first.

        `to` is a recipient or a glob over it (`+4915*`), `text` a part of title or text; both ignore case. `since` is in
        seconds since 1970, `before` is an id.
        """
        whole = re.compile(translate(to), re.IGNORECASE).match if to else None
        part = text.lower()
        for entry in reversed(self._entries.values()):
            if since is not None and entry.arrived_at < since:
                return
            if before is not None and entry.id >= before:
                continue
            if (whole is None or whole(entry.to)) and (part in entry.text.lower() or part in entry.title.lower()):
                yield entry

    def clear(self) -> int:
        """Delete all messages; returns how many there were."""
        count = len(self._entries)
        self._entries.clear()
        return count
