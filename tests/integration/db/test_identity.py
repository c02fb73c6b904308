"""The statements of identity.sql, run on the reference app's data."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import DictRow

from backline.db.statements import statement
from backline.encryption import Encryptor
from tests.integration.conftest import TEST_FERNET_KEY
from tests.integration.identity import add_token

KINDS = {"password_reset_token": "password_reset", "email_verification_token": "email_verification"}
DEVICE: LiteralString = """
SELECT t.user_id, t.token FROM app.push_tokens AS t JOIN app.users AS u ON u.id = t.user_id
WHERE t.removed_at IS NULL AND u.state = 'active' LIMIT 1
"""
LIVE: LiteralString = "SELECT * FROM app.tokens WHERE kind = %s AND token_encrypted IS NOT NULL LIMIT 1"


def ask(app: psycopg.Connection[DictRow], name: str, **params: Any) -> list[DictRow]:
    return app.execute(statement("identity", name), params).fetchall()


@pytest.fixture(params=KINDS)
def token(request: pytest.FixtureRequest, app: psycopg.Connection[DictRow]) -> tuple[str, DictRow]:
    """The statement's name and a live token of its kind."""
    [row] = app.execute(LIVE, [KINDS[request.param]]).fetchall()
    return request.param, row


def test_a_live_token_is_its_encrypted_secret(token: tuple[str, DictRow], app: psycopg.Connection[DictRow]) -> None:
    name, row = token
    for reference in (row["id"], str(row["id"])):
        [found] = ask(app, name, id=reference)
        assert list(found) == ["value", "recipient"]
        opened = Encryptor([TEST_FERNET_KEY]).decrypt("token", found["value"])
        assert hashlib.sha256(opened.encode()).digest() == row["token_hash"]


@pytest.mark.parametrize(
    "end",
    [
        "UPDATE app.tokens SET used_at = clock_timestamp(), token_encrypted = NULL WHERE id = %s",
        "UPDATE app.tokens SET created_at = created_at - interval '9 days', expires_at = clock_timestamp() - interval '1 second' WHERE id = %s",
        "UPDATE app.tokens SET kind = 'otp' WHERE id = %s",
        "DELETE FROM app.tokens WHERE id = %s",
    ],
)
def test_an_unknown_token_gives_no_row(
    end: LiteralString, token: tuple[str, DictRow], app: psycopg.Connection[DictRow]
) -> None:
    name, row = token
    app.execute(end, [row["id"]])
    assert ask(app, name, id=row["id"]) == []


def test_a_token_stored_only_as_a_hash_gives_null(token: tuple[str, DictRow], app: psycopg.Connection[DictRow]) -> None:
    name, row = token
    app.execute("UPDATE app.tokens SET token_encrypted = NULL WHERE id = %s", [row["id"]])
    assert [found["value"] for found in ask(app, name, id=row["id"])] == [None]


def test_an_id_that_is_not_a_number_is_a_data_error(app: psycopg.Connection[DictRow]) -> None:
    with pytest.raises(errors.DataError):
        ask(app, "password_reset_token", id="seventeen")


def test_a_user_has_a_language_and_time_zone(app: psycopg.Connection[DictRow]) -> None:
    [person] = app.execute("SELECT * FROM app.users WHERE country = 'DE' AND state = 'active' LIMIT 1").fetchall()
    assert ask(app, "user_contact", id=person["id"]) == [
        {"email": person["email"], "name": person["name"], "language": "de", "zone": "Europe/Berlin"}
    ]


def test_deleted_users_get_no_messages(app: psycopg.Connection[DictRow]) -> None:
    [person] = app.execute("SELECT id FROM app.users WHERE state = 'deactivated' LIMIT 1").fetchall()
    assert ask(app, "user_contact", id=person["id"]) == []


def test_alerts_go_to_active_admins(app: psycopg.Connection[DictRow]) -> None:
    assert [row["name"] for row in ask(app, "admin_recipients")] == ["Admin 000001", "Admin 000002", "Admin 000003"]
    app.execute("UPDATE app.users SET state = 'deactivated', deactivated_at = clock_timestamp() WHERE id = 2")
    assert [row["email"][:11] for row in ask(app, "admin_recipients")] == ["admin000001", "admin000003"]


def test_a_code_is_its_encrypted_secret_while_it_is_valid(app: psycopg.Connection[DictRow]) -> None:
    code = add_token(app, Encryptor([TEST_FERNET_KEY]).encrypt("402913"), "otp")
    [found] = ask(app, "mfa_code", id=str(code))
    assert Encryptor([TEST_FERNET_KEY]).decrypt("code", found["value"]) == "402913"
    assert ask(app, "password_reset_token", id=code) == []
    assert ask(app, "mfa_code", id=add_token(app, None, "otp", timedelta(seconds=-1))) == []


def test_a_user_has_their_registered_devices(app: psycopg.Connection[DictRow]) -> None:
    [device] = app.execute(DEVICE).fetchall()
    person, token = device["user_id"], device["token"]
    before = {row["token"] for row in ask(app, "push_tokens", id=str(person))}
    assert token in before
    removal = {"token": token, "reason": "the push provider no longer knows it"}
    for _ in range(2):  # a second time is no error
        app.execute(statement("identity", "push_token_remove"), removal)
    assert {row["token"] for row in ask(app, "push_tokens", id=person)} == before - {token}
    [row] = app.execute("SELECT * FROM app.push_tokens WHERE token = %s", [token]).fetchall()
    assert row["removed_at"] is not None
    assert row["removed_reason"] == removal["reason"]
    app.execute(
        "UPDATE app.users SET state = 'deactivated', deactivated_at = clock_timestamp() WHERE id = %s", [person]
    )
    assert ask(app, "push_tokens", id=person) == []
