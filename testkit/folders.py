"""A folder for one run at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backline.errors import Misconfigured


@contextmanager
def exclusive_folder(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder, made if missing; Misconfigured when another run does. `what` names it: another ... runs."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Misconfigured(f"another {what} runs in {folder}; wait for it, or set BACKLINE_HOME") from None
    try:
        yield
    finally:
        os.close(descriptor)
