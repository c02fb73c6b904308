"""Whether every named statement fits a database: its tables and columns, their types, and the role's privileges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg.sql import SQL

from backline.db.connect import translated
from backline.db.statements import SQL_FOLDER, numbered, own_folder, read_statements, statements
from backline.errors import InvalidInput

NOT_ADOPTED = frozenset({"reference_app", "demo", "bench"})
"""Domains of the reference app's data, of the demo and of the benches: no database but their own needs them."""
_EXPLAIN = SQL("EXPLAIN (GENERIC_PLAN) {statement}")


@dataclass(frozen=True, slots=True)
class Checked:
    """One statement, where it comes from, and what the database has against it, if anything."""

    domain: str
    name: str
    is_own: bool
    problem: str | None


def domains() -> list[str]:
    """The files of statements that a database in use must fit, ours and those of `database.statements_folder`."""
    folders = [SQL_FOLDER, *filter(None, [own_folder()])]
    return sorted({path.stem for folder in folders for path in folder.glob("*.sql")} - NOT_ADOPTED)


def check_statements(dsn: str, chosen: Sequence[str] = ()) -> list[Checked]:
    """Plan every statement of those domains (default: all) on that database, as its role, without running it.

    InvalidInput for a domain that does not exist.
    """
    known = domains()
    if wrong := sorted(set(chosen) - {*known, *NOT_ADOPTED}):
        raise InvalidInput("domain", f"there is no file {wrong[0]}.sql; use one of: {', '.join(known)}")
    found = []
    with translated(), psycopg.connect(dsn, autocommit=True) as connection:
        for domain in chosen or known:
            own = _own(domain)
            for name, text in statements(domain).items():
                problem = None
                try:
                    connection.execute(_EXPLAIN.format(statement=SQL(numbered(text))), prepare=False)
                except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as exc:
                    problem = exc.diag.message_primary or str(exc)
                found.append(Checked(domain, name, name in own, problem))
    return found


def _own(domain: str) -> frozenset[str]:
    folder = own_folder()
    path = folder / f"{domain}.sql" if folder else None
    return frozenset(read_statements(path)) if path and path.exists() else frozenset()
