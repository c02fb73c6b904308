"""The Maildir that stores caught mail, with an index in memory.

A message is written under `tmp/` and renamed into `new/`, so readers of the folder never see a partial message.
Nothing is fsynced: this is a development mailbox, and speed matters more than surviving a power cut.
"""

from __future__ import annotations

import os
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import translate
from itertools import islice
from operator import attrgetter
from pathlib import Path

from sandbox.mail.content import decode_header_text

HEADER_SIZE_LIMIT = 1 << 18
"""Bytes of a file that are read to index it: enough for a thousand recipients and long headers."""

_FILE_NAME = re.compile(r"(\d{10,})\.M(\d{6})P\d+\.")
_ARRIVAL_HEADER = re.compile(rb"X-Arrived-At: [\d.]+\r?\n")
_SUBJECT = re.compile(rb"^subject:[ \t]*(.*(?:\r?\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)
_MESSAGE_ID = re.compile(rb"^message-id:\s*(\S+)", re.IGNORECASE | re.MULTILINE)

Predicate = Callable[["Entry"], object]


@dataclass(frozen=True, slots=True)
class Entry:
    """One caught message.

    `id` is its arrival time in microseconds since 1970, made unique, so ids grow in arrival order.
    `recipients` are those of the envelope, in order. `size` is in bytes, as received.
    """

    id: int
    file: str
    sender: str
    recipients: tuple[str, ...]
    subject: str
    message_id: str
    size: int

    @property
    def arrived_at(self) -> float:
        """Arrival time in seconds since 1970."""
        return self.id / 1_000_000


class Mailbox:
    """A Maildir with its index. All methods except `read` and `remove` run in the event loop's thread."""

    def __init__(self, folder: Path) -> None:
        """Open or create the Maildir at `folder` and index it. Raises OSError."""
        self.folder = folder
        self._tmp, self._new = folder / "tmp", folder / "new"
        self._pid = os.getpid()
        self._entries: list[Entry] = []
        self._last_id = 0
        self._make_folders()
        self._index_files()

    def __len__(self) -> int:
        return len(self._entries)

    def store(self, sender: str, recipients: tuple[str, ...], content: bytes) -> Entry:
        """Store one message, with its envelope and arrival time as headers on top. Raises OSError."""
        stamp = self._next_id(time.time_ns() // 1000)
        seconds, micros = divmod(stamp, 1_000_000)
        name = f"{seconds}.M{micros:06}P{self._pid}.localhost"
        head = "".join(
            [
                f"X-Envelope-From: {sender}\r\n",
                *[f"X-Envelope-To: {recipient}\r\n" for recipient in recipients],
                f"X-Arrived-At: {seconds}.{micros:06}\r\n",
            ]
        )
        self._write(name, head.encode() + content)
        entry = _build_entry(stamp, f"new/{name}", sender, recipients, content, len(content))
        self._entries.append(entry)
        return entry

    def find(
        self,
        *,
        to: str = "",
        subject: str = "",
        since: float | None = None,
        before: int | None = None,
    ) -> Iterator[Entry]:
        """The matching messages, newest first.

        `to` is an address or a glob over whole envelope recipients (`*@example.com`), `subject` a part of the
        subject; both ignore case. `since` is in seconds since 1970, `before` is an id.
        """
        low = 0 if since is None else bisect_left(self._entries, int(since * 1_000_000), key=attrgetter("id"))
        high = len(self._entries) if before is None else bisect_left(self._entries, before, key=attrgetter("id"))
        found: Iterable[Entry] = (self._entries[place] for place in range(high - 1, low - 1, -1))
        for predicate in _build_predicates(to, subject):
            found = filter(predicate, found)
        return iter(found)

    def count(self, *, to: str = "", subject: str = "", since: float | None = None) -> int:
        """How many messages `find` would return."""
        if not (to or subject or since):
            return len(self._entries)
        return sum(1 for _ in self.find(to=to, subject=subject, since=since))

    def get(self, message_id: int) -> Entry | None:
        """The message with this id, or None."""
        place = bisect_left(self._entries, message_id, key=attrgetter("id"))
        found = next(islice(self._entries, place, place + 1), None)
        return found if found is not None and found.id == message_id else None

    def remove_from_index(self, entry: Entry) -> None:
        """Remove a message from the index after another program removed its file."""
        place = bisect_left(self._entries, entry.id, key=attrgetter("id"))
        if self._entries[place : place + 1] == [entry]:
            del self._entries[place]

    def read(self, entry: Entry) -> bytes:
        """Read the file of a message. Raises FileNotFoundError if it is gone."""
        path = self.folder / entry.file
        if not path.exists():  # a mail reader moves read messages from new/ to cur/ and adds flags to the name
            path = next((self.folder / "cur").glob(f"{path.name}*"), path)
        return path.read_bytes()

    def clear(self) -> list[Path]:
        """Empty the index and return the files for `remove`; messages that arrive afterwards are not among them."""
        files = [path for kind in ("new", "cur") for path in (self.folder / kind).iterdir()]
        self._entries = []
        return files

    @staticmethod
    def remove(files: list[Path]) -> None:
        """Unlink the files that `clear` returned; slow for many files, so call it in a thread."""
        for path in files:
            path.unlink(missing_ok=True)

    def _make_folders(self) -> None:
        for kind in ("tmp", "new", "cur"):
            (self.folder / kind).mkdir(parents=True, exist_ok=True)

    def _next_id(self, wanted: int) -> int:
        self._last_id = max(wanted, self._last_id + 1)
        return self._last_id

    def _write(self, name: str, content: bytes) -> None:
        draft = self._tmp / name
        try:
            try:
                draft.write_bytes(content)
            except FileNotFoundError:  # the Maildir was removed under us
                self._make_folders()
                draft.write_bytes(content)
            draft.rename(self._new / name)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def _index_files(self) -> None:
        files = [(kind, item) for kind in ("new", "cur") for item in os.scandir(self.folder / kind) if item.is_file()]
        stamped = sorted((_parse_timestamp(item), kind, item.name, item.path) for kind, item in files)
        for stamp, kind, name, path in stamped:
            with Path(path).open("rb", buffering=0) as file:
                start = file.read(HEADER_SIZE_LIMIT)
                size = os.fstat(file.fileno()).st_size
            sender, recipients, head_length = _parse_envelope(start)
            content = start[head_length:]
            self._entries.append(
                _build_entry(self._next_id(stamp), f"{kind}/{name}", sender, recipients, content, size - head_length)
            )


def _build_entry(stamp: int, file: str, sender: str, recipients: tuple[str, ...], content: bytes, size: int) -> Entry:
    end = content.find(b"\r\n\r\n")
    if end < 0:
        end = content.find(b"\n\n")
    headers = content[: min(end, HEADER_SIZE_LIMIT) if end >= 0 else HEADER_SIZE_LIMIT]
    subject, message_id = _SUBJECT.search(headers), _MESSAGE_ID.search(headers)
    return Entry(
        stamp,
        file,
        sender,
        recipients,
        decode_header_text(subject[1])[:998] if subject else "",
        decode_header_text(message_id[1])[:998] if message_id else "",
        size,
    )


def _parse_envelope(start: bytes) -> tuple[str, tuple[str, ...], int]:
    """Sender, recipients and length of the headers that `store` added; empty if there are none."""
    end = _ARRIVAL_HEADER.search(start)
    if end is None or not start.startswith(b"X-Envelope-From: "):
        return "", (), 0
    lines = start[: end.start()].decode("utf-8", "replace").splitlines()
    values = [line.partition(": ")[2] for line in lines]
    return values[0], tuple(values[1:]), end.end()


def _parse_timestamp(item: os.DirEntry[str]) -> int:
    named = _FILE_NAME.match(item.name)
    return int(named[1]) * 1_000_000 + int(named[2]) if named else item.stat().st_mtime_ns // 1000


def _build_predicates(to: str, subject: str) -> Iterator[Predicate]:
    if to:
        whole = re.compile(translate(to), re.IGNORECASE).match
        yield lambda entry: any(map(whole, entry.recipients))
    if subject:
        part = re.compile(re.escape(subject), re.IGNORECASE).search
        yield lambda entry: part(entry.subject)
