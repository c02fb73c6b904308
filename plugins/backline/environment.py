"""The process's environment: the project's `.env` file, and the mark of the embedded stack's processes."""

from __future__ import annotations

import io
import os
from pathlib import Path

from dotenv.parser import parse_stream

from backline.errors import Misconfigured

STACK_ID_VARIABLE = "BACKLINE_STACK_ID"
"""Which copy of the embedded stack a process belongs to; set by its supervisor."""


def load_dotenv(root: Path) -> None:
    """Set variables from the KEY=value lines of `.env` in the project's folder; variables already set win."""
    path = root / ".env"
    if not path.is_file():
        return
    for found in parse_stream(io.StringIO(path.read_text(encoding="utf-8"))):
        text = found.original.string
        if found.error or (found.key is not None and (found.value is None or not found.key.isidentifier())):
            number = found.original.line + len(text) - len(text.lstrip("\n"))
            raise Misconfigured(f"{path}: line {number} is not KEY=value; correct or remove it")
        if found.key is not None:
            os.environ.setdefault(found.key, found.value or "")
