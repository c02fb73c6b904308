from __future__ import annotations

import psycopg
import pytest

from backline.db.check import check_statements, domains
from backline.errors import InvalidInput


def test_every_shipped_statement_fits_the_reference_app(database: str) -> None:
    found = check_statements(database)
    assert {one.domain for one in found} == set(domains())
    assert len(found) > 30
    assert [one for one in found if one.problem or one.is_custom] == []


def test_a_missing_column_is_named_and_nothing_is_run(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE app.users RENAME COLUMN language TO tongue")
        connection.execute("DROP TABLE app.tokens")
    found = {one.name: one.problem for one in check_statements(database, ["identity"])}
    assert found == {
        "password_reset_token": 'relation "app.tokens" does not exist',
        "email_verification_token": 'relation "app.tokens" does not exist',
        "mfa_code": 'relation "app.tokens" does not exist',
        "user_contact": "column u.language does not exist",
        "admin_recipients": "column u.language does not exist",
        "push_tokens": None,
        "push_token_remove": None,
    }


def test_statements_that_change_rows_are_only_planned(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("""SELECT backline.enqueue('welcome', 'ann@example.com', '{"name": "Ann"}')""")
    assert not any(one.problem for one in check_statements(database, ["outbox"]))
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT state FROM backline.message").fetchall() == [("pending",)]


def test_an_unknown_domain_is_named(database: str) -> None:
    with pytest.raises(InvalidInput, match=r"domain: there is no file people\.sql; use one of: .*identity, .*outbox"):
        check_statements(database, ["people"])
