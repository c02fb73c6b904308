"""Checks that every named statement fits a database: tables, columns, types, and the role's privileges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg.sql import SQL

from backline.db.connect import translate_errors
from backline.db.statements import SQL_FOLDER, custom_folder, custom_statements, statements, to_positional
from backline.errors import InvalidInput

EXCLUDED_DOMAINS = frozenset({"reference_app", "demo", "bench"})
"""Domains of the reference app's data, the demo and the benches, which only their own databases need."""
_EXPLAIN = SQL("EXPLAIN (GENERIC_PLAN) {statement}")


@dataclass(frozen=True, slots=True)
class StatementCheck:
    """One statement, its origin, and the database's objection to it, if any."""

    domain: str
    name: str
    is_custom: bool
    problem: str | None


def domains() -> list[str]:
    """The statement files that a database in use must fit, ours and those of `database.statements_folder`."""
    folders = [SQL_FOLDER, *filter(None, [custom_folder()])]
    return sorted({path.stem for folder in folders for path in folder.glob("*.sql")} - EXCLUDED_DOMAINS)


def check_statements(dsn: str, chosen: Sequence[str] = ()) -> list[StatementCheck]:
    """Plan every statement of these domains (default: all) on the database, with the role's privileges.

    The statements are not run. InvalidInput for a domain that does not exist.
    """
    known = domains()
    if wrong := sorted(set(chosen) - {*known, *EXCLUDED_DOMAINS}):
        raise InvalidInput("domain", f"there is no file {wrong[0]}.sql; use one of: {', '.join(known)}")
    found = []
    with translate_errors(), psycopg.connect(dsn, autocommit=True) as connection:
        for domain in chosen or known:
            custom = custom_statements(domain)
            for name, text in statements(domain).items():
                problem = None
                try:
                    connection.execute(_EXPLAIN.format(statement=SQL(to_positional(text))), prepare=False)
                except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as exc:
                    problem = exc.diag.message_primary or str(exc)
                found.append(StatementCheck(domain, name, name in custom, problem))
    return found
