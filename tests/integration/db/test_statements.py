"""Every statement of include/sql/*.sql is one that the server can prepare, parameters and result included."""

from __future__ import annotations

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from backline.db.statements import SQL_FOLDER, statements, to_positional
from stack.reference_app import apply_schema

NAMED = [(path.stem, name) for path in sorted(SQL_FOLDER.glob("*.sql")) for name in statements(path.stem)]


def prepared(domain: str, name: str) -> Composed:
    return SQL("PREPARE {} AS ").format(Identifier(f"{domain}.{name}")) + SQL(to_positional(statements(domain)[name]))


def test_there_are_statements() -> None:
    assert len(NAMED) > 20


def test_every_statement_prepares(database: str) -> None:
    problems = []
    apply_schema(database)  # the app's tables
    with psycopg.connect(database, autocommit=True) as connection:
        for domain, name in NAMED:
            try:
                connection.execute(prepared(domain, name), prepare=False)
            except psycopg.Error as exc:
                problems.append(f"{domain}.{name}: {exc}")
    assert not problems
