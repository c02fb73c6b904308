"""Atomic file writes: a reader finds the previous file or the complete new one, also after a crash or power loss."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from backline.errors import BacklineError, Misconfigured, ResourceExhausted

_UNWRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR})
_EXHAUSTED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o600, setting: str = "") -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends; after an exception `path` is unchanged.

    The data goes to a temporary file in the same folder (created with mode 0700 if missing), which is fsynced and renamed;
    then the folder is fsynced. Misconfigured if the folder is not writable, naming the `setting` it comes from;
    ResourceExhausted if the disk is full or fails.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_folder(path.parent)
    except OSError as exc:
        if (error := _translate(exc, path, draft, setting)) is None:
            raise
        raise error from exc
    finally:
        with suppress(OSError):
            draft.unlink()


@contextmanager
def atomic_text_file(path: Path, *, mode: int = 0o600, setting: str = "") -> Iterator[TextIO]:
    """Like `atomic_file`, for UTF-8 text; line ends are written as given."""
    with atomic_file(path, mode=mode, setting=setting) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        yield text
        text.detach()  # flushes, and leaves the file open


def write_file(path: Path, content: bytes, *, mode: int = 0o600, setting: str = "") -> None:
    """Write a whole file with `atomic_file`."""
    with atomic_file(path, mode=mode, setting=setting) as file:
        file.write(content)


def write_manifest(path: Path, count: int, *, setting: str = "") -> Path:
    """Write `<name>.json` beside a finished file, with its name, its count of records and its SHA-256; returns its path.

    A file without a manifest is incomplete: its writer died before the end.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = path.with_name(f"{path.name}.json")
    text = json.dumps({"file": path.name, "count": count, "sha256": digest}, indent=2) + "\n"
    write_file(manifest, text.encode(), mode=path.stat().st_mode & 0o777, setting=setting)
    return manifest


def csv_cell(value: object) -> object:
    """A value for a CSV file. Spreadsheets take text that starts like a formula for one, and it may come from outside."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _translate(exc: OSError, path: Path, draft: Path, setting: str) -> BacklineError | None:
    """The error for a failed operation on this file; None if the caller's block failed for another reason."""
    if exc.filename is not None and Path(exc.filename) not in (draft, path, *path.parents):
        return None
    if exc.filename is not None and exc.errno in _UNWRITABLE:
        fix = f"make it writable, or set {setting} to a folder that is" if setting else "make it writable"
        return Misconfigured(f"{path.parent}: {exc.strerror}; {fix}")
    if exc.filename is not None or exc.errno in _EXHAUSTED:
        return ResourceExhausted(f"{path}: {exc.strerror or exc}")
    return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EBADF, errno.EINVAL):  # file systems that cannot sync folders
            raise
    finally:
        os.close(descriptor)


def exists(path: Path) -> bool:
    """Whether the path leads to anything; not if no file can have that name, for which `Path.exists` raises OSError."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, links in a circle
        return False
