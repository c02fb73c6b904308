"""Messages with secrets: what arrives holds them, and nothing else that is left of them does."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet
from psycopg.rows import dict_row

from backline.channels.email.channel import EmailChannel
from backline.channels.email.settings import EmailSettings
from backline.db.statements import statement, statements
from backline.encryption import Encryptor
from backline.errors import BacklineError, InvalidInput
from backline.messages import registry, render_email
from backline.outbox.delivery import Delivery, SecretResolver
from backline.outbox.dispatcher import Dispatcher
from backline.outbox.inline_delivery import InlineSender, Route
from backline.outbox.submission import NewMessage
from backline.settings import DEFAULT_RETRY_POLICIES, LaneSettings, OutboxSettings, settings
from smtp_pipeline import SmtpServer
from stack.reference_app import apply_schema
from tests.integration.identity import add_token
from tests.integration.outbox.support import Outbox
from tests.integration.outbox.test_dispatcher import Catcher

TOKEN = "s3cret/token+of-ann"
QUOTED = "s3cret%2Ftoken%2Bof-ann"
ENCRYPTOR = Encryptor([Fernet.generate_key().decode()])
LANE = LaneSettings(channel="email")


@pytest.fixture(scope="module")
def catcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catcher]:
    made = Catcher(tmp_path_factory.mktemp("mail") / "box")
    yield made
    made.close()


@pytest.fixture
def mail(catcher: Catcher) -> Catcher:
    catcher.clear_faults()
    catcher.web.delete("/api/messages").raise_for_status()
    return catcher


@pytest.fixture
def app(outbox: Outbox) -> psycopg.Connection[Any]:
    apply_schema(outbox.dsn)
    return outbox.connection


@pytest.fixture
def lookup(outbox: Outbox) -> Iterator[SecretResolver]:
    made = SecretResolver(lambda: outbox.dsn, lambda: ENCRYPTOR)
    yield made
    asyncio.run(made.close())


def delivery(mail: Catcher, lookup: SecretResolver) -> tuple[EmailChannel, Delivery[Any]]:
    channel = EmailChannel(EmailSettings(), SmtpServer("127.0.0.1", mail.port, "none"), render_email)
    return channel, Delivery(channel, DEFAULT_RETRY_POLICIES, random.Random(1).random, lookup)


def drain(outbox: Outbox, mail: Catcher, lookup: SecretResolver) -> None:
    channel, trying = delivery(mail, lookup)
    dispatcher = Dispatcher(
        "email.urgent", LANE, OutboxSettings(), outbox.dsn, channel, trying, once=True, dag_run="a/b"
    )
    asyncio.run(dispatcher.run())


def reset(outbox: Outbox, token: Any, **more: Any) -> int:
    payload = {"name": "Ann", "token": token, **more}
    return outbox.enqueue(type="password_reset", payload=json.dumps(payload))


def received_emails(mail: Catcher) -> list[EmailMessage]:
    return [message_from_bytes(file.read_bytes(), policy=default) for file in (mail.maildir / "new").iterdir()]


def received_text(mail: Catcher) -> str:
    [letter] = received_emails(mail)
    body = letter.get_body(("plain",))
    assert body is not None
    return str(body.get_content())


def stored_text(outbox: Outbox) -> str:
    rows = [
        *outbox.sql("SELECT m::text FROM backline.message AS m"),
        *outbox.sql("SELECT a::text FROM backline.attempt AS a"),
    ]
    return json.dumps(rows)


@pytest.mark.parametrize("in_the_app", ["encrypted", "plaintext"])
def test_a_reference_becomes_the_link(
    outbox: Outbox, app: psycopg.Connection[Any], mail: Catcher, lookup: SecretResolver, in_the_app: str
) -> None:
    if in_the_app != "encrypted":  # as in an app that stores plaintext
        app.execute("ALTER TABLE app.tokens DROP CONSTRAINT IF EXISTS tokens_token_encrypted_check")
    token = add_token(app, ENCRYPTOR.encrypt(TOKEN) if in_the_app == "encrypted" else TOKEN)
    made = reset(outbox, {"$ref": "password_reset_token", "id": token})
    drain(outbox, mail, lookup)
    assert f"http://localhost:8080/reset-password?token={QUOTED}" in received_text(mail).splitlines()
    row = outbox.message(made)
    assert (row["state"], row["payload"]) == ("sent", {"name": "Ann"})
    [attempt] = outbox.sql("SELECT * FROM backline.attempt WHERE message_id = %s", made)
    assert (attempt["outcome"], attempt["response"]) == ("sent", None)
    assert TOKEN not in stored_text(outbox)


def test_fernet_text_becomes_the_link(outbox: Outbox, mail: Catcher, lookup: SecretResolver) -> None:
    made = reset(outbox, ENCRYPTOR.encrypt(TOKEN))
    drain(outbox, mail, lookup)
    assert QUOTED in received_text(mail)
    assert outbox.message(made)["payload"] == {"name": "Ann"}


@pytest.mark.parametrize("why", ["none", "used", "expired", "only a hash", "another kind", "no number"])
def test_what_cannot_be_resolved_is_dead_and_named(
    outbox: Outbox, app: psycopg.Connection[Any], mail: Catcher, lookup: SecretResolver, why: str
) -> None:
    encrypted = ENCRYPTOR.encrypt(TOKEN)
    identities: dict[str, Callable[[], int | str]] = {
        "none": lambda: 999_999,
        "used": lambda: add_token(app, encrypted, used=True),
        "expired": lambda: add_token(app, encrypted, lives=timedelta(seconds=-1)),
        "only a hash": lambda: add_token(app, None),
        "another kind": lambda: add_token(app, encrypted, kind="email_verification"),
        "no number": lambda: "abc",
    }
    identity = identities[why]()
    made = reset(outbox, {"$ref": "password_reset_token", "id": identity})
    drain(outbox, mail, lookup)
    row = outbox.message(made)
    assert (row["state"], row["error_class"], row["attempt"]) == ("dead", "validation", 1)
    assert row["error"].startswith(f"token: password_reset_token with id {identity!r} ")
    assert row["payload"] == {"name": "Ann"}
    assert received_emails(mail) == []


@pytest.mark.parametrize("statement", ["email_verification_token", "message_claim", "no_such"])
def test_a_statement_that_the_type_does_not_allow_is_not_run(
    outbox: Outbox, app: psycopg.Connection[Any], mail: Catcher, lookup: SecretResolver, statement: str
) -> None:
    token = add_token(app, ENCRYPTOR.encrypt(TOKEN), kind="email_verification")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="token: "):
        reset(outbox, {"$ref": statement, "id": token})
    made = reset(outbox, {"$ref": "password_reset_token", "id": token})
    outbox.sql(
        "UPDATE backline.message SET payload = jsonb_set(payload, '{token,$ref}', to_jsonb(%s::text))", statement
    )
    drain(outbox, mail, lookup)
    row = outbox.message(made)
    assert (row["state"], row["error_class"]) == ("dead", "validation")
    assert 'token: must be a reference like {"$ref": "password_reset_token"' in row["error"]


@pytest.mark.parametrize(
    ("recipient", "state"),
    [
        ("attacker@example.com", "dead"),
        ("Ann Lee <attacker@example.com>", "dead"),
        ("ann@example.com.attacker.example", "dead"),
        ("Ann Lee <ANN@Example.COM>", "sent"),
    ],
)
def test_a_reference_goes_to_its_owner_only(
    outbox: Outbox, app: psycopg.Connection[Any], mail: Catcher, lookup: SecretResolver, recipient: str, state: str
) -> None:
    token = {"$ref": "password_reset_token", "id": add_token(app, ENCRYPTOR.encrypt(TOKEN))}
    made = outbox.enqueue(recipient, type="password_reset", payload=json.dumps({"name": "Ann", "token": token}))
    drain(outbox, mail, lookup)
    row = outbox.message(made)
    assert (row["state"], len(received_emails(mail))) == (state, int(state == "sent"))
    if state == "dead":
        assert (row["error_class"], row["attempt"]) == ("validation", 1)
        if row["error"].startswith("token:"):
            assert row["error"].endswith("belongs to somebody else than the message's recipient; send it to its owner")
        assert "ann@example.com" not in row["error"]


REFERENCES = sorted(
    {
        (kind.type_name, channel, field, name)
        for kind in registry.all_types()
        for field, names in kind.secret_references.items()
        for name in names
        for channel in kind.channels
    }
)


@pytest.mark.parametrize(("type_name", "channel", "field", "name"), REFERENCES)
def test_each_reference_of_each_type_names_its_owner(
    app: psycopg.Connection[Any], lookup: SecretResolver, type_name: str, channel: str, field: str, name: str
) -> None:
    kinds = app.execute("SELECT unnest(enum_range(NULL::app.token_kind))::text AS kind").fetchall()
    tokens = [add_token(app, ENCRYPTOR.encrypt(TOKEN), row["kind"]) for row in kinds]
    [token] = [token for token in tokens if app.execute(statement("identity", name), {"id": token}).fetchall()]
    kind, payload = registry.get(type_name), {field: {"$ref": name, "id": token}}
    owner, other = {
        "email": ("ann@example.com", "attacker@example.com"), "sms": ("+4915112345678", "+4915187654321"),
    }[channel]  # fmt: skip

    async def values() -> dict[str, str]:
        with pytest.raises(InvalidInput, match="belongs to somebody else"):
            await lookup.values(kind, payload, channel, other)
        return await lookup.values(kind, payload, channel, owner)

    assert asyncio.run(values()) == {field: TOKEN}


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ("'x' AS value", "password_reset_token of identity.sql: the statement's result has no column 'recipient'"),
        ("'x' AS value, NULL AS recipient", "belongs to somebody else"),
        ("'x' AS value, ARRAY['+4915112345678', NULL] AS recipient", "belongs to somebody else"),
        ("'x' AS value, ARRAY['+4915112345678', 'Ann@example.com'] AS recipient", None),
    ],
)
def test_a_teams_own_statement_must_return_the_owner(
    lookup: SecretResolver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str, problem: str | None
) -> None:
    (tmp_path / "identity.sql").write_text(
        f"-- name: password_reset_token\n-- Ours.\nSELECT {columns} WHERE %(id)s::bigint > 0;\n"
    )
    monkeypatch.setenv("BACKLINE__DATABASE__STATEMENTS_FOLDER", str(tmp_path))
    settings.cache_clear()
    statements.cache_clear()
    payload = {"token": {"$ref": "password_reset_token", "id": 1}}
    resolved = lookup.values(registry.get("password_reset"), payload, "email", "ann@example.com")
    try:
        if problem is None:
            assert asyncio.run(resolved) == {"token": "x"}
        else:
            with pytest.raises(BacklineError, match=re.escape(problem)):
                asyncio.run(resolved)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
        statements.cache_clear()


def test_a_missing_table_is_misconfigured_and_retried(
    outbox: Outbox, app: psycopg.Connection[Any], mail: Catcher, lookup: SecretResolver
) -> None:
    app.execute("ALTER TABLE app.tokens RENAME TO mislaid")
    made = reset(outbox, {"$ref": "password_reset_token", "id": 1})
    drain(outbox, mail, lookup)
    app.execute("ALTER TABLE app.mislaid RENAME TO tokens")
    row = outbox.message(made)
    assert (row["state"], row["error_class"]) == ("scheduled", "unknown")
    assert 'relation "app.tokens" does not exist' in row["error"]


def test_a_closed_connection_is_reopened(
    outbox: Outbox, app: psycopg.Connection[Any], mail: Catcher, lookup: SecretResolver
) -> None:
    token = add_token(app, ENCRYPTOR.encrypt(TOKEN))
    reset(outbox, {"$ref": "password_reset_token", "id": token})
    drain(outbox, mail, lookup)
    ended = outbox.sql(
        "SELECT pg_terminate_backend(pid, 5000) AS ended FROM pg_stat_activity WHERE application_name = 'backline secrets'"
    )
    assert [row["ended"] for row in ended] == [True]
    made = reset(outbox, {"$ref": "password_reset_token", "id": token})
    drain(outbox, mail, lookup)
    assert outbox.message(made)["state"] == "sent"


@pytest.mark.parametrize("reply", [f"554 5.7.1 blocked: {TOKEN}", f"451 4.3.0 no ?token={QUOTED} here"])
def test_what_the_server_repeats_of_a_secret_is_hidden(
    outbox: Outbox, mail: Catcher, lookup: SecretResolver, reply: str, caplog: pytest.LogCaptureFixture
) -> None:
    mail.fail(reply=reply)
    made = reset(outbox, ENCRYPTOR.encrypt(TOKEN))
    with caplog.at_level(logging.DEBUG):
        drain(outbox, mail, lookup)
    row = outbox.message(made)
    assert "[secret]" in row["error"]
    for secret in (TOKEN, QUOTED):
        assert secret not in stored_text(outbox)
        assert secret not in caplog.text
    assert ("token" in row["payload"]) == (row["state"] == "scheduled")  # kept encrypted for the next attempt


def test_a_message_is_not_sent_after_its_token_has_expired(
    outbox: Outbox, mail: Catcher, lookup: SecretResolver
) -> None:
    late = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    made = reset(outbox, ENCRYPTOR.encrypt(TOKEN), valid_until=late)
    in_time = reset(outbox, ENCRYPTOR.encrypt(TOKEN), valid_until=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    drain(outbox, mail, lookup)
    row = outbox.message(made)
    assert (row["state"], row["payload"]) == ("expired", {"name": "Ann", "valid_until": late})
    assert outbox.message(in_time)["state"] == "sent"
    assert len(received_emails(mail)) == 1


def test_a_wrong_valid_until_is_named_when_it_is_sent(outbox: Outbox, mail: Catcher, lookup: SecretResolver) -> None:
    made = reset(outbox, ENCRYPTOR.encrypt(TOKEN))
    outbox.sql("""UPDATE backline.message SET payload = payload || '{"valid_until": "soon"}'""")
    drain(outbox, mail, lookup)
    row = outbox.message(made)
    assert (row["state"], row["error"].split(":")[0]) == ("dead", "valid_until")


def test_a_secret_encrypted_with_another_key_is_dead_and_named(
    outbox: Outbox, mail: Catcher, lookup: SecretResolver
) -> None:
    made = reset(outbox, Encryptor([Fernet.generate_key().decode()]).encrypt(TOKEN))
    drain(outbox, mail, lookup)
    row = outbox.message(made)
    assert (row["state"], row["error_class"]) == ("dead", "validation")
    assert row["error"].startswith("token: none of the keys in BACKLINE_FERNET_KEYS decrypts it")


def test_types_without_secrets_open_no_connection(outbox: Outbox, mail: Catcher, lookup: SecretResolver) -> None:
    made = outbox.enqueue(type="urgent_email", payload='{"context": {"title": "Down", "summary": "db-1"}}')
    drain(outbox, mail, lookup)
    assert outbox.message(made)["state"] == "sent"
    assert lookup._database._connection is None


def test_a_run_that_sends_resolves_too(
    outbox: Outbox, app: psycopg.Connection[Any], mail: Catcher, lookup: SecretResolver
) -> None:
    payload = {"name": "Ann", "token": {"$ref": "password_reset_token", "id": add_token(app, ENCRYPTOR.encrypt(TOKEN))}}
    channel, trying = delivery(mail, lookup)
    sender = InlineSender(outbox.dsn, {"email": Route(channel, trying, LANE)})
    [result] = asyncio.run(sender.send(NewMessage("password_reset", "ann@example.com", payload, "dag/run"), "dag/run"))
    assert result.state == "sent"
    assert QUOTED in received_text(mail)
    assert outbox.message(result.message_id)["payload"] == {"name": "Ann"}


def test_a_plaintext_secret_is_refused_by_sql(outbox: Outbox) -> None:
    with pytest.raises(psycopg.Error, match="token: is secret; give Fernet text or a reference"):
        reset(outbox, TOKEN)
    with psycopg.connect(outbox.dsn, row_factory=dict_row) as other:
        assert other.execute("SELECT count(*) AS n FROM backline.message").fetchone() == {"n": 0}
