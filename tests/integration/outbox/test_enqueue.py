"""backline.enqueue and enqueue_many, as an app calls them: in its own transactions, by its own role."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from typing import Literal as Choice

import psycopg
import pytest
from cryptography.fernet import Fernet
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier, Literal
from pydantic import Field

from backline.db.connect import translate_error
from backline.encryption import Encryptor
from backline.errors import DatabaseFailure, InvalidInput
from backline.messages import registry
from tests.integration.outbox.support import PAYLOAD, Outbox

NOW = datetime.now(UTC)
ENQUEUE: LiteralString = (
    "SELECT backline.enqueue(type => %(type)s, recipient => %(recipient)s, payload => %(payload)s::jsonb, due_at => %(due_at)s,"
    " priority => %(priority)s, idempotency_key => %(key)s, expires_at => %(expires_at)s, request_id => %(request_id)s)"
)
MANY: LiteralString = (
    "SELECT backline.enqueue_many(type => %(type)s, recipients => %(recipients)s::text[], payloads => %(payloads)s::jsonb[],"
    " due_at => %(due_at)s, priority => %(priority)s, expires_at => %(expires_at)s, request_id => %(request_id)s,"
    " idempotency_keys => %(keys)s::text[])"
)


def arguments(**given: Any) -> dict[str, Any]:
    values = {
        "type": "email", "recipient": "ann@example.com", "payload": PAYLOAD, "due_at": None, "priority": None,
        "key": None, "expires_at": None, "request_id": None, **given,
    }  # fmt: skip
    return values | {"payload": json.dumps(values["payload"])}


def many_arguments(**given: Any) -> dict[str, Any]:
    values = {
        "type": "email", "recipients": ["ann@example.com", "bob@example.com"], "payloads": [PAYLOAD, PAYLOAD],
        "due_at": None, "priority": None, "expires_at": None, "request_id": None, "keys": None, **given,
    }  # fmt: skip
    return values | {"payloads": [json.dumps(payload) for payload in values["payloads"]]}


def enqueue(connection: psycopg.Connection[Any], **given: Any) -> int:
    row = connection.execute(ENQUEUE, arguments(**given)).fetchone()
    assert row is not None
    return int(next(iter(row.values())) if isinstance(row, dict) else row[0])


def enqueue_many(outbox: Outbox, **given: Any) -> list[int]:
    row = outbox.connection.execute(MANY, many_arguments(**given)).fetchone()
    assert row is not None
    ids: list[int] = row["enqueue_many"]
    return ids


@pytest.fixture
def app(outbox: Outbox) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """The app's own connection, with transactions."""
    with psycopg.connect(outbox.dsn) as connection:
        yield connection


def count(outbox: Outbox) -> int:
    return int(outbox.value("SELECT count(*) FROM backline.message"))


# --- with the app's transaction -------------------------------------------------------------------


def test_committed_with_the_apps_transaction(outbox: Outbox, app: psycopg.Connection[Any]) -> None:
    made = enqueue(app)
    assert count(outbox) == 0
    app.commit()
    row = outbox.message(made)
    assert {key: row[key] for key in ("type", "channel", "lane", "priority", "state", "recipient", "payload", "attempt")} == {
        "type": "email", "channel": "email", "lane": "email.normal", "priority": 5, "state": "pending",
        "recipient": "ann@example.com", "payload": PAYLOAD, "attempt": 0,
    }  # fmt: skip
    assert row["max_attempts"] == 6
    assert (row["group_id"], row["expires_at"], row["finalized_at"]) == (None, None, None)


def test_rolled_back_with_the_apps_transaction(outbox: Outbox, app: psycopg.Connection[Any]) -> None:
    enqueue(app, key="order-1")
    app.rollback()
    assert count(outbox) == 0
    assert outbox.value("SELECT count(*) FROM backline.idempotency") == 0


def test_rolled_back_to_a_savepoint(outbox: Outbox, app: psycopg.Connection[Any]) -> None:
    first = enqueue(app)
    app.execute("SAVEPOINT s")
    enqueue(app)
    app.execute("ROLLBACK TO s")
    app.commit()
    assert [row["id"] for row in outbox.sql("SELECT id FROM backline.message")] == [first]


def test_a_role_that_was_granted_the_two_functions_can_enqueue_and_only_that(outbox: Outbox) -> None:
    role = f"app_{uuid.uuid4().hex[:8]}"
    outbox.connection.execute(SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(Identifier(role), Literal("secret")))
    try:
        outbox.connection.execute(SQL("GRANT USAGE ON SCHEMA backline TO {}").format(Identifier(role)))
        with psycopg.connect(make_conninfo(outbox.dsn, user=role, password="secret"), autocommit=True) as app:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                enqueue(app)
            outbox.connection.execute(
                SQL("GRANT EXECUTE ON FUNCTION backline.enqueue, backline.enqueue_many TO {}").format(Identifier(role))
            )
            assert enqueue(app, key="k") == enqueue(app, key="k")
            row = app.execute(MANY, many_arguments()).fetchone()
            assert row is not None
            assert len(row[0]) == 2
            for query in ("SELECT * FROM backline.message", "DELETE FROM backline.idempotency"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    app.execute(query)
            # What its own schema search finds must not reach into the function, which runs with its owner's rights.
            app.execute("CREATE TEMP TABLE message_type (name text)")
            app.execute("SET search_path = pg_temp")
            assert enqueue(app) > 0
    finally:
        outbox.connection.execute(SQL("DROP OWNED BY {}").format(Identifier(role)))
        outbox.connection.execute(SQL("DROP ROLE {}").format(Identifier(role)))


# --- options ------------------------------------------------------------------------------------------


def test_due_later_is_scheduled(outbox: Outbox) -> None:
    due = NOW + timedelta(hours=1)
    row = outbox.message(enqueue(outbox.connection, due_at=due, expires_at=due))
    assert (row["state"], row["due_at"], row["expires_at"]) == ("scheduled", due, due)


def test_due_in_the_past_is_pending_and_keeps_its_place(outbox: Outbox) -> None:
    due = NOW - timedelta(hours=1)
    row = outbox.message(enqueue(outbox.connection, due_at=due))
    assert (row["state"], row["due_at"]) == ("pending", due)


def test_priority_and_request_id(outbox: Outbox) -> None:
    row = outbox.message(enqueue(outbox.connection, priority=10, request_id="req-1"))
    assert (row["priority"], row["request_id"]) == (10, "req-1")


def test_urgent_mail_goes_to_the_urgent_lane(outbox: Outbox) -> None:
    row = outbox.message(enqueue(outbox.connection, type="urgent_email", payload={"context": {}}))
    assert (row["lane"], row["priority"]) == ("email.urgent", 8)


def test_another_lane_of_the_same_channel_and_its_priority(outbox: Outbox) -> None:
    bulk = outbox.value(
        "SELECT backline.enqueue('email', 'ann@example.com', %s::jsonb, lane => 'email.bulk')", json.dumps(PAYLOAD)
    )
    assert (outbox.message(bulk)["lane"], outbox.message(bulk)["priority"]) == ("email.bulk", 2)
    [first, _] = outbox.value(
        "SELECT backline.enqueue_many('email', ARRAY['a@example.com', 'b@example.com'], ARRAY[%s, %s]::jsonb[],"
        " lane => 'email.urgent', priority => 3)", json.dumps(PAYLOAD), json.dumps(PAYLOAD),
    )  # fmt: skip
    assert (outbox.message(first)["lane"], outbox.message(first)["priority"]) == ("email.urgent", 3)


@pytest.mark.parametrize(
    "function", ["enqueue('email', 'a@example.com', ", "enqueue_many('email', ARRAY['a@example.com'], ARRAY["]
)
def test_a_lane_that_does_not_carry_the_type_is_refused(outbox: Outbox, function: str) -> None:
    query = f"SELECT backline.{function}%s::jsonb{']' if 'ARRAY' in function else ''}, lane => 'email.slow')"
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match=r"lane: 'email\.slow'.*use one of: email\.bulk"
    ) as caught:
        outbox.connection.execute(query, [json.dumps(PAYLOAD)])
    assert caught.value.diag.column_name == "lane"
    assert count(outbox) == 0


@pytest.mark.parametrize(
    "recipient", ["ann@example.com", "Ann Müller <ann@example.com>", "jörg@bücher.example", "a.b+c_d'e@x-y.example"]
)
def test_valid_recipients(outbox: Outbox, recipient: str) -> None:
    assert outbox.message(enqueue(outbox.connection, recipient=recipient))["recipient"] == recipient


def test_unicode_and_large_payloads_come_back_as_they_were(outbox: Outbox) -> None:
    payload = {
        "subject": "Grüße 😀 עברית",
        "text": "línea\n" * 50_000,
        "html": "<p>日本語</p>",
        "headers": {"X-A": "ß"},
    }
    assert outbox.message(enqueue(outbox.connection, payload=payload))["payload"] == payload


# --- bad input --------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "e-mail"}, "type", r"'e-mail' is not a message type; use one of: .*email, .*welcome"),
    ({"type": None}, "type", r"null is not a message type; use one of"),
    ({"payload": ["subject"]}, "payload", r"must be a JSON object"),
    ({"payload": "text"}, "payload", r"must be a JSON object"),
    ({"payload": {"text": "Hi"}}, "subject", r"required field is missing; add it"),
    ({"payload": PAYLOAD | {"subjet": "x"}}, "subjet", r"unknown field; remove it or use one of: .*subject"),
    ({"payload": PAYLOAD | {"subject": 5}}, "subject", r"must be string, not number"),
    ({"payload": PAYLOAD | {"subject": None}}, "subject", r"must be string, not null"),
    ({"payload": PAYLOAD | {"subject": ""}}, "subject", r"too short; at least 1, this has 0"),
    ({"payload": PAYLOAD | {"subject": "x" * 100_000}}, "subject", r"too long; at most \d+, this has 100000"),
    ({"payload": PAYLOAD | {"cc": "bob@example.com"}}, "cc", r"must be array or null, not string"),
    ({"payload": PAYLOAD | {"headers": []}}, "headers", r"must be object or null, not array"),
    ({"recipient": None}, "recipient", r"is missing"),
    ({"recipient": ""}, "recipient", r"is missing"),
    ({"recipient": "ann"}, "recipient", r"not an email address; use ann@example\.com"),
    ({"recipient": "ann@"}, "recipient", r"not an email address"),
    ({"recipient": "ann@example.com, bob@example.com"}, "recipient", r"not an email address"),
    ({"recipient": "ann@example.com\nBcc: eve@example.com"}, "recipient", r"not an email address"),
    ({"recipient": "Ann\r\nBcc: eve@example.com <ann@example.com>"}, "recipient", r"not an email address"),
    ({"recipient": "a" * 400 + "@example.com"}, "recipient", r"longer than 400"),
    ({"priority": 0}, "priority", r"must be between 1"),
    ({"priority": 11}, "priority", r"must be between 1"),
    ({"expires_at": NOW - timedelta(hours=1)}, "expires_at", r"in the past; leave it out or give a later time"),
    (
        {"due_at": NOW + timedelta(hours=2), "expires_at": NOW + timedelta(hours=1)},
        "due_at", r"after expires_at.*give an earlier due_at or a later expires_at",
    ),
    ({"request_id": "x" * 256}, "request_id", r"1 to 200 char"),
    ({"key": ""}, "idempotency_key", r"must have 1 to 255 characters"),
    ({"key": "x" * 256}, "idempotency_key", r"must have 1 to 255 characters"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "field", "problem"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_names_field_and_fix_and_aborts_the_transaction(
    outbox: Outbox, app: psycopg.Connection[Any], given: dict[str, Any], field: str, problem: str
) -> None:
    enqueue(app)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=problem) as caught:
        app.execute(ENQUEUE, arguments(**given))
    assert caught.value.diag.column_name == field
    assert f"{field}: " in str(caught.value)
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        app.execute("SELECT 1")
    app.rollback()
    assert count(outbox) == 0
    ours = translate_error(caught.value)
    assert isinstance(ours, InvalidInput)
    assert ours.field == field


ROW_BY_ROW = [(given, field) for given, field, _ in BAD if set(given) <= {"recipient", "payload"}]


@pytest.mark.parametrize(("given", "field"), ROW_BY_ROW, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("keys", [None, ["a", "b", "c"]], ids=["plain", "keyed"])
def test_one_invalid_row_of_many_refuses_all(
    outbox: Outbox, given: dict[str, Any], field: str, keys: list[str] | None
) -> None:
    recipients = ["ann@example.com", given.get("recipient", "bob@example.com"), "cid@example.com"]
    payloads = [PAYLOAD, given.get("payload", PAYLOAD), PAYLOAD]
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
        outbox.connection.execute(MANY, many_arguments(recipients=recipients, payloads=payloads, keys=keys))
    assert caught.value.diag.column_name == field
    if keys is None:
        assert "message 2" in str(caught.value)
    assert count(outbox) == 0


@pytest.mark.parametrize(
    ("given", "field"),
    [(given, field) for given, field, _ in BAD if not set(given) & {"recipient", "payload", "key"}],
    ids=lambda value: str(value)[:40],
)
def test_what_all_rows_share_is_checked_once(outbox: Outbox, given: dict[str, Any], field: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
        outbox.connection.execute(MANY, many_arguments(**given))
    assert caught.value.diag.column_name == field
    assert count(outbox) == 0


@pytest.mark.parametrize("given", [{"recipients": ["ann@example.com"]}, {"recipients": None}, {"keys": ["one"]}])
def test_lists_of_other_lengths_are_refused(outbox: Outbox, given: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="one entry per message"):
        outbox.connection.execute(MANY, many_arguments(**given))


def test_a_field_whose_name_ends_a_word_of_ours_is_named_alone(outbox: Outbox) -> None:
    with pytest.raises(psycopg.Error) as caught:
        enqueue(outbox.connection, payload=PAYLOAD | {"e": 1})
    ours = translate_error(caught.value)
    assert isinstance(ours, InvalidInput)
    assert ours.problem.startswith("unknown field")


# --- many -----------------------------------------------------------------------------------------------------


def test_many_give_their_ids_in_order(outbox: Outbox) -> None:
    recipients = [f"r{n}@example.com" for n in range(500)]
    ids = enqueue_many(outbox, recipients=recipients, payloads=[PAYLOAD] * 500, priority=3, request_id="r")
    rows = {row["id"]: row for row in outbox.sql("SELECT * FROM backline.message")}
    assert [rows[message_id]["recipient"] for message_id in ids] == recipients
    assert {(row["priority"], row["state"], row["request_id"]) for row in rows.values()} == {(3, "pending", "r")}


def test_none_are_none(outbox: Outbox) -> None:
    assert outbox.value("SELECT backline.enqueue_many('email', '{}', '{}')") == []


def test_many_due_later_are_scheduled(outbox: Outbox) -> None:
    outbox.connection.execute(MANY, many_arguments(due_at=NOW + timedelta(hours=1)))
    assert outbox.state_counts() == {"scheduled": 2}


# --- idempotency -----------------------------------------------------------------------------------------------


def test_the_same_key_and_content_is_the_same_message(outbox: Outbox) -> None:
    one = enqueue(outbox.connection, key="order-1", payload={"subject": "Hello", "text": "Hi"})
    other = enqueue(outbox.connection, key="order-1", payload={"text": "Hi", "subject": "Hello"})
    assert one == other
    assert count(outbox) == 1


@pytest.mark.parametrize("other", [{"payload": PAYLOAD | {"text": "Bye"}}, {"recipient": "bob@example.com"}])
def test_the_same_key_with_other_content_is_an_error(outbox: Outbox, other: dict[str, Any]) -> None:
    first = enqueue(outbox.connection, key="order-1")
    with pytest.raises(
        psycopg.errors.UniqueViolation,
        match=f"'order-1' was used for message {first} with other content; use a new key",
    ) as caught:
        enqueue(outbox.connection, key="order-1", **other)
    assert caught.value.diag.column_name == "idempotency_key"
    assert isinstance(translate_error(caught.value), InvalidInput)
    assert count(outbox) == 1


def test_a_key_within_one_statement(outbox: Outbox) -> None:
    same = ["ann@example.com"] * 3
    ids = enqueue_many(outbox, recipients=same, payloads=[PAYLOAD] * 3, keys=["a", "a", "b"])
    assert ids[0] == ids[1] != ids[2]
    assert count(outbox) == 2


def test_an_expired_key_can_be_reused(outbox: Outbox) -> None:
    first = enqueue(outbox.connection, key="k")
    outbox.sql("UPDATE backline.idempotency SET expires_at = clock_timestamp() - interval '1 s'")
    second = enqueue(outbox.connection, key="k", recipient="bob@example.com")
    assert first != second
    assert enqueue(outbox.connection, key="k", recipient="bob@example.com") == second


def test_the_same_key_after_the_message_has_expired_is_still_the_same_message(outbox: Outbox) -> None:
    first = enqueue(outbox.connection, key="k", expires_at=datetime.now(UTC) + timedelta(seconds=0.2))
    expires = outbox.message(first)["expires_at"]
    outbox.sql("SELECT pg_sleep_until(%s)", expires)
    assert enqueue(outbox.connection, key="k", expires_at=expires) == first


def test_one_key_from_many_connections_at_once_is_one_message(outbox: Outbox) -> None:
    workers = 6
    together = threading.Barrier(workers)

    def call(_: int) -> list[int]:
        with psycopg.connect(outbox.dsn) as connection:
            together.wait(10)
            found = []
            for number in range(10):
                found.append(enqueue(connection, key=f"k{number}"))
                connection.commit()
            return found

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(call, range(workers)))
    assert all(result == results[0] for result in results)
    assert count(outbox) == 10


def test_a_key_of_a_rolled_back_transaction_is_free(outbox: Outbox, app: psycopg.Connection[Any]) -> None:
    enqueue(app, key="k")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(enqueue, outbox.connection, key="k", recipient="bob@example.com")
        with psycopg.connect(outbox.dsn, autocommit=True) as look:
            while not look.execute(
                "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
            ).fetchone():
                pass
        app.rollback()
        made = waiting.result(10)
    assert [row["id"] for row in outbox.sql("SELECT id FROM backline.message")] == [made]


def test_under_an_old_snapshot_the_loser_gets_a_serialization_failure(
    outbox: Outbox, app: psycopg.Connection[Any]
) -> None:
    app.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    app.execute("SELECT count(*) FROM backline.message")
    enqueue(outbox.connection, key="k")
    with pytest.raises(psycopg.errors.SerializationFailure) as caught:
        enqueue(app, key="k")
    assert isinstance(translate_error(caught.value), DatabaseFailure)


# --- several channels ---------------------------------------------------------------------------------------------


@pytest.fixture
def alert(outbox: Outbox) -> str:
    outbox.add_type("alert", channels=("email", "sms"), text=(str, ...))
    return "alert"


def test_several_channels_are_a_row_each_and_one_group(outbox: Outbox, alert: str) -> None:
    both = json.dumps({"email": "ann@example.com", "sms": "+491234567"})
    group = enqueue(outbox.connection, type=alert, recipient=both, payload={"text": "Hi"}, key="k")
    rows = outbox.sql("SELECT * FROM backline.message ORDER BY channel")
    assert [(row["channel"], row["lane"], row["recipient"], row["group_id"]) for row in rows] == [
        ("email", "email.normal", "ann@example.com", group), ("sms", "sms.normal", "+491234567", group),
    ]  # fmt: skip
    assert group not in {row["id"] for row in rows}
    assert enqueue(outbox.connection, type=alert, recipient=both, payload={"text": "Hi"}, key="k") == group
    with pytest.raises(psycopg.errors.UniqueViolation, match=f"group {group}"):
        enqueue(outbox.connection, type=alert, recipient=both, payload={"text": "Ho"}, key="k")


def test_an_omitted_channel_gets_nothing(outbox: Outbox, alert: str) -> None:
    enqueue(outbox.connection, type=alert, recipient='{"sms": "+491234567"}', payload={"text": "Hi"})
    assert [row["channel"] for row in outbox.sql("SELECT channel FROM backline.message")] == ["sms"]


@pytest.mark.parametrize(
    "recipient", ["ann@example.com", "{}", '{"fax": "1"}', '["ann@example.com"]', '{"email": "ann"}', None]
)
def test_recipients_of_several_channels_are_checked(outbox: Outbox, alert: str, recipient: str | None) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
        enqueue(outbox.connection, type=alert, recipient=recipient, payload={"text": "Hi"})
    assert caught.value.diag.column_name == "recipient"
    assert count(outbox) == 0


# --- limits and secrets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"count": 0}, "out of range; must be between 1 and 10"),
        ({"count": 11}, "out of range"),
        ({"count": 1.5}, "must be integer, not number"),
        ({"count": "1"}, "must be integer, not string"),
        ({"kind": "c"}, r"must be one of \[\"a\", \"b\"\]"),
        ({"tags": []}, "too short; at least 1"),
        ({"tags": [1, 2, 3]}, "too long; at most 2"),
        ({"map": {"a": 1, "b": 2}}, "too long; at most 1"),
    ],
)
def test_rules_of_fields(outbox: Outbox, value: dict[str, Any], problem: str) -> None:
    outbox.add_type(
        "ruled", count=(int, Field(5, ge=1, le=10)), kind=(Choice["a", "b"], "a"),
        tags=(tuple[int, ...], Field((), min_length=1, max_length=2)), map=(dict[str, int], Field({}, max_length=1)),
    )  # fmt: skip
    enqueue(outbox.connection, type="ruled", payload={"count": 10, "kind": "b", "tags": [1], "map": {"a": 1}})
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=problem):
        enqueue(outbox.connection, type="ruled", payload=value)


@pytest.mark.parametrize("code", ["123456", "", 123456, {"ref": "x"}, ["123456"]])
def test_a_plaintext_secret_is_refused_and_not_repeated(outbox: Outbox, code: object) -> None:
    outbox.add_type("otp", secret=["code"])
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match="is secret; give Fernet text or a reference"
    ) as caught:
        enqueue(outbox.connection, type="otp", payload={"code": code})
    assert caught.value.diag.column_name == "code"
    assert "123456" not in str(caught.value)


def test_an_encrypted_secret_and_a_reference_are_accepted(outbox: Outbox) -> None:
    example = registry.get("password_reset").example
    for token in (
        Encryptor([Fernet.generate_key().decode()]).encrypt("123456"),
        {"$ref": "password_reset_token", "id": 17},
    ):
        payload = {**example, "token": token}
        made = enqueue(outbox.connection, type="password_reset", payload=payload)
        assert outbox.message(made)["payload"] == payload


def test_a_key_matches_although_the_ciphertext_differs(outbox: Outbox) -> None:
    outbox.add_type("otp", secret=["code"])
    encryptor = Encryptor([Fernet.generate_key().decode()])
    assert (
        len(
            {
                enqueue(outbox.connection, type="otp", key="k", payload={"code": encryptor.encrypt("1")})
                for _ in range(2)
            }
        )
        == 1
    )
