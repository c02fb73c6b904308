"""Named SQL statements: `include/sql/<domain>.sql`, one `-- name:` block each, and those that stand in for them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import LiteralString, cast

from backline.errors import Misconfigured
from backline.settings import ROOT, settings

SQL_FOLDER = ROOT / "include" / "sql"
_STATEMENT_BLOCK = re.compile(r"-- name: (\w+)\n((?:--[^\n]*\n)+)(.+;)\s*\Z", re.DOTALL)
PARAMETER = re.compile(r"%\((\w+)\)s")


@cache
def statements(domain: str) -> dict[str, LiteralString]:
    """All statements of one domain by name, with `%(name)s` parameters; each has a describing comment.

    Those of the same file in `database.statements_folder` are added to ours and, where the name is the same, replace them.
    """
    found = read_statements(SQL_FOLDER / f"{domain}.sql")
    if (own := custom_folder()) and (path := own / f"{domain}.sql").exists():
        found |= read_statements(path)
    return found


def to_positional(text: LiteralString) -> LiteralString:
    """A statement with `$1`, `$2`, ... for its named parameters, as the server's own PREPARE and EXPLAIN take it."""
    numbers: dict[str, str] = {}
    found = PARAMETER.sub(lambda match: numbers.setdefault(match[1], f"${len(numbers) + 1}"), text)
    return found.replace("%%", "%")


def custom_folder() -> Path | None:
    """The folder `database.statements_folder`, if it is set; Misconfigured if it is not there."""
    given = settings().database.statements_folder
    if not given:
        return None
    folder = ROOT / given
    if not folder.is_dir():
        raise Misconfigured(f"database.statements_folder: {folder} is no folder; make it, or leave the setting empty")
    return folder


def read_statements(path: Path) -> dict[str, LiteralString]:
    """The statements of one file by name; Misconfigured names a block that is not well-formed."""
    found: dict[str, LiteralString] = {}
    for block in re.split(r"(?=^-- name: )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        match = _STATEMENT_BLOCK.match(block)
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
