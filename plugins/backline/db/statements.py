"""Named SQL statements: `include/sql/<domain>.sql`, one `-- name:` block each."""

from __future__ import annotations

import re
from functools import cache
from typing import LiteralString, cast

from backline.errors import Misconfigured
from backline.settings import ROOT

SQL_FOLDER = ROOT / "include" / "sql"
_BLOCK = re.compile(r"-- name: (\w+)\n((?:--[^\n]*\n)+)(.+;)\s*\Z", re.DOTALL)
PARAMETER = re.compile(r"%\((\w+)\)s")


@cache
def statements(domain: str) -> dict[str, LiteralString]:
    """All statements of one domain by name, with `%(name)s` parameters; each has a describing comment."""
    path = SQL_FOLDER / f"{domain}.sql"
    text = path.read_text(encoding="utf-8")
    found: dict[str, LiteralString] = {}
    for block in re.split(r"(?=^-- name: )", text, flags=re.MULTILINE)[1:]:
        match = _BLOCK.match(block)
        if match is None or match[1] in found:
            raise Misconfigured(
                f"{path}: {block.splitlines()[0]}: needs a name of its own, a comment on the next line and one statement"
            )
        found[match[1]] = cast("LiteralString", match[3])
    return found


def statement(domain: str, name: str) -> LiteralString:
    """One statement; Misconfigured if the file does not have it."""
    try:
        return statements(domain)[name]
    except KeyError:
        raise Misconfigured(f"include/sql/{domain}.sql has no statement named {name!r}") from None
