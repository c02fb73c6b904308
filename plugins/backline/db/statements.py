"""Named SQL statements: `-- name:` blocks of `include/sql/<domain>.sql`, and the custom statements that replace them."""

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
    """All statements of one domain by name, with `%(name)s` parameters.

    Statements of the same file in `database.statements_folder` are added, and replace those of the same name.
    """
    return read_statements(SQL_FOLDER / f"{domain}.sql") | custom_statements(domain)


def custom_statements(domain: str) -> dict[str, LiteralString]:
    """The statements of one domain in `database.statements_folder`."""
    folder = custom_folder()
    path = folder / f"{domain}.sql" if folder else None
    return read_statements(path) if path and path.exists() else {}


def to_positional(text: LiteralString) -> LiteralString:
    """A statement with `$1`, `$2`, ... in place of its named parameters, for the server's PREPARE and EXPLAIN."""
    numbers: dict[str, str] = {}
    found = PARAMETER.sub(lambda match: numbers.setdefault(match[1], f"${len(numbers) + 1}"), text)
    return found.replace("%%", "%")


def custom_folder() -> Path | None:
    """The folder `database.statements_folder`, if it is set; Misconfigured if it does not exist."""
    setting = settings().database.statements_folder
    if not setting:
        return None
    folder = ROOT / setting
    if not folder.is_dir():
        raise Misconfigured(
            f"database.statements_folder: {folder} is not a folder; create it, or leave the setting empty"
        )
    return folder


def read_statements(path: Path) -> dict[str, LiteralString]:
    """The statements of one file by name; Misconfigured names a block that is not well-formed."""
    found: dict[str, LiteralString] = {}
    for block in re.split(r"(?=^-- name: )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        match = _STATEMENT_BLOCK.match(block)
        if match is None or match[1] in found:
            rule = "needs a unique name, a comment on the next line and one statement"
            raise Misconfigured(f"{path}: {block.splitlines()[0]}: {rule}")
        found[match[1]] = cast("LiteralString", match[3])
    return found


def statement(domain: str, name: str) -> LiteralString:
    """One statement; Misconfigured if its file does not contain it."""
    try:
        return statements(domain)[name]
    except KeyError:
        raise Misconfigured(f"include/sql/{domain}.sql has no statement named {name!r}") from None
