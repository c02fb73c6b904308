"""The least of an app's own tables that the statements of include/sql/identity.sql need."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, LiteralString

import psycopg

TABLES: LiteralString = """
CREATE SCHEMA IF NOT EXISTS app;
CREATE TABLE IF NOT EXISTS app.tokens (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    token_sealed text,
    expires_at timestamptz NOT NULL,
    used_at timestamptz)
"""
INSERT: LiteralString = """
INSERT INTO app.tokens (kind, token_sealed, expires_at, used_at)
VALUES (%s, %s, clock_timestamp() + %s, CASE WHEN %s THEN clock_timestamp() END) RETURNING id
"""


def add_token(
    connection: psycopg.Connection[Any],
    sealed: str | None,
    kind: str = "password_reset",
    lives: timedelta = timedelta(hours=1),
    *,
    used: bool = False,
) -> int:
    """A token of the app's; its id."""
    row = connection.execute(INSERT, (kind, sealed, lives, used)).fetchone()
    assert row is not None
    return int(row["id"] if isinstance(row, dict) else row[0])
