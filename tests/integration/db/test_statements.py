"""Every statement of include/sql/*.sql is one that the server can prepare, parameters and result included."""

from __future__ import annotations

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from backline.db.statements import PARAMETER, SQL_FOLDER, statements
from tests.integration.identity import TABLES

NAMED = [(path.stem, name) for path in sorted(SQL_FOLDER.glob("*.sql")) for name in statements(path.stem)]


def prepared(domain: str, name: str) -> Composed:
    text = statements(domain)[name]
    numbers: dict[str, str] = {}
    numbered = PARAMETER.sub(lambda match: numbers.setdefault(match[1], f"${len(numbers) + 1}"), text)
    return SQL("PREPARE {} AS ").format(Identifier(name)) + SQL(numbered.replace("%%", "%"))


def test_there_are_statements() -> None:
    assert len(NAMED) > 20


def test_every_statement_prepares(database: str) -> None:
    problems = []
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLES)  # of the app
        for domain, name in NAMED:
            try:
                connection.execute(prepared(domain, name), prepare=False)
            except psycopg.Error as exc:
                problems.append(f"{domain}.{name}: {exc}")
    assert not problems
