"""The process's environment: the project's `.env` file, and the mark of the embedded stack's processes."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from backline.errors import Misconfigured

STACK_ID_VARIABLE = "BACKLINE_STACK_ID"
"""Which copy of the embedded stack a process belongs to; set by its supervisor."""


def load_dotenv(root: Path) -> None:
    """Set variables from the KEY=value lines of `.env` in the project's folder; variables already set win."""
    path = root / ".env"
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        key, separator, value = text.partition("=")
        try:
            words = shlex.split(value, comments=True)
        except ValueError:  # a quote without its end
            separator = ""
        if not separator or not key.strip().isidentifier():
            raise Misconfigured(f"{path}: line {number} is not KEY=value; correct or remove it")
        os.environ.setdefault(key.strip(), " ".join(words))
