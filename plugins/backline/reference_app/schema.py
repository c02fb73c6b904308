"""The reference app's tables: the numbered files of `include/sql/reference_app/`."""

from __future__ import annotations

from typing import Any

import psycopg

from backline.db.connect import translate_errors
from backline.db.migrate import apply_files
from backline.db.statements import SQL_FOLDER, statement
from backline.errors import Misconfigured

SCHEMA = "app"
FOLDER = SQL_FOLDER / "reference_app"
SCHEMA_COMMENT = "Backline's reference app"
"""What the schema's comment says when it is ours."""


def apply_schema(dsn: str) -> list[str]:
    """Bring the schema `app` up to date; returns the names of the files applied.

    One transaction under a lock, as `backline.db.migrate`. Misconfigured if a schema `app` is there that is not ours.
    """
    with translate_errors(), psycopg.connect(dsn) as connection:
        return apply_in_transaction(connection)


def apply_in_transaction(connection: psycopg.Connection[Any]) -> list[str]:
    """As `apply`, in the caller's transaction, which then holds the lock."""
    row = connection.execute(statement("reference_app", "schema_owner")).fetchone()
    is_there, comment = row or (False, None)
    if is_there and comment != SCHEMA_COMMENT:
        raise Misconfigured(
            f"the database has a schema {SCHEMA!r} that is not Backline's reference app; "
            "use another database for it (yours was not touched), and see docs/adopting.md for work on your own tables"
        )
    return apply_files(connection, SCHEMA, FOLDER)
