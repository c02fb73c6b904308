"""Tokens in the reference app, for secrets to refer to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, LiteralString

import psycopg

INSERT: LiteralString = """
WITH person AS (
    INSERT INTO app.users (email, name, country, phone) VALUES (%(email)s::text, 'User', 'DE', %(phone)s::text)
    ON CONFLICT (lower(email)) DO UPDATE SET phone = excluded.phone
    RETURNING id
), lives AS (
    SELECT clock_timestamp() + %(lives)s::interval AS until
)
INSERT INTO app.tokens (user_id, kind, token_hash, token_encrypted, created_at, expires_at, used_at)
SELECT person.id, %(kind)s::app.token_kind, sha256(gen_random_uuid()::text::bytea),
    CASE WHEN NOT %(used)s::boolean THEN %(sealed)s::text END, until - interval '1 day', until,
    CASE WHEN %(used)s::boolean THEN until - interval '1 hour' END
FROM person, lives RETURNING id
"""


def add_token(
    connection: psycopg.Connection[Any],
    sealed: str | None,
    kind: str = "password_reset",
    lives: timedelta = timedelta(hours=1),
    *,
    used: bool = False,
    email: str = "ann@example.com",
    phone: str = "+4915112345678",
) -> int:
    """A token of the person with that address, who gets that number; its id."""
    given = {"kind": kind, "sealed": sealed, "lives": lives, "used": used, "email": email, "phone": phone}
    row = connection.execute(INSERT, given).fetchone()
    assert row is not None
    return int(row["id"] if isinstance(row, dict) else row[0])
