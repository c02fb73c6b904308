"""`./backline send`: what it enqueues, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet
from psycopg.rows import dict_row

from backline.cli.__main__ import run
from backline.encryption import KEYS_VARIABLE, Encryptor

KEY = Fernet.generate_key().decode()
TOKEN = "s3cret-token-of-ann"
Send = Callable[..., int]


@pytest.fixture
def send(database: str, monkeypatch: pytest.MonkeyPatch) -> Send:
    monkeypatch.setenv("BACKLINE_DATABASE_URL", database)
    monkeypatch.setenv(KEYS_VARIABLE, KEY)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["backline", "send", *arguments])
        return run()

    return call


def messages(database: str) -> list[dict[str, Any]]:
    with psycopg.connect(database, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM backline.message ORDER BY id").fetchall()


def test_a_message_is_enqueued_and_its_id_printed(
    send: Send, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send("welcome", "--to", "Ann <ann@example.com>", "--set", "name=Ann", "--set", "language=de") == 0
    [row] = messages(database)
    assert (row["type"], row["recipient"], row["state"]) == ("welcome", "Ann <ann@example.com>", "pending")
    assert row["payload"] == {"name": "Ann", "language": "de"}
    printed = capsys.readouterr().out
    assert f"Message {row['id']} to Ann <ann@example.com> is pending in email.normal" in printed
    assert f"./backline inspect {row['id']}" in printed


def test_payload_time_lane_and_key(
    send: Send, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "order.json"
    file.write_text('{"name": "Ann", "order": "1042", "status": "ready", "order_url": "https://shop.example/1042"}')
    arguments = (
        "order_status", "--to", "ann@example.com", "--payload", f"@{file}", "--set", "status=delivered",
        "--lane", "email.bulk", "--at", "2035-01-31T12:00:00+01:00", "--key", "k-1", "--json",
    )  # fmt: skip
    assert send(*arguments) == send(*arguments) == 0
    [row] = messages(database)
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == second
    assert first["id"] == row["id"]
    assert first["due_at"].startswith("2035-01-31T11:00:00")
    assert (row["lane"], row["state"], row["payload"]["status"]) == ("email.bulk", "scheduled", "delivered")


def test_a_field_that_is_not_text_is_json(send: Send, database: str) -> None:
    context = '{"heading": "Hi", "paragraphs": ["One."]}'
    assert (
        send("templated_email", "--to", "ann@example.com", "--set", "template=notice", "--set", f"context={context}")
        == 0
    )
    assert messages(database)[0]["payload"]["context"]["paragraphs"] == ["One."]


@pytest.mark.parametrize("where", ["field", "payload"])
def test_a_secret_from_a_file_is_encrypted_before_it_reaches_sql(
    send: Send, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    file = tmp_path / "given"
    if where == "field":
        file.write_text(TOKEN + "\n")
        given = ["--set", "name=Ann", "--set", f"token=@{file}"]
    else:
        file.write_text(json.dumps({"name": "Ann", "token": TOKEN}))
        given = ["--payload", f"@{file}"]
    assert send("password_reset", "--to", "ann@example.com", *given, "--set", "valid_until=2035-01-31T12:00:00Z") == 0
    [row] = messages(database)
    assert Encryptor([KEY]).decrypt("token", row["payload"]["token"]) == TOKEN
    assert row["expires_at"].isoformat() == "2035-01-31T12:00:00+00:00"
    assert TOKEN not in "".join(capsys.readouterr())


def test_a_secret_is_prompted_for_on_a_terminal(send: Send, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda _prompt: TOKEN)
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda _prompt: TOKEN, raising=False)
    monkeypatch.setattr("typer._click.termui.hidden_prompt_func", lambda _prompt: TOKEN, raising=False)
    assert send("password_reset", "--to", "ann@example.com", "--set", "name=Ann") == 0
    assert Encryptor([KEY]).decrypt("token", messages(database)[0]["payload"]["token"]) == TOKEN


@pytest.mark.parametrize("token", ['{"$ref": "password_reset_token", "id": 17}', Encryptor([KEY]).encrypt(TOKEN)])
def test_a_reference_and_fernet_text_are_stored_unchanged(send: Send, database: str, token: str) -> None:
    assert send("password_reset", "--to", "ann@example.com", "--set", "name=Ann", "--set", f"token={token}") == 0
    kept = messages(database)[0]["payload"]["token"]
    assert kept == (json.loads(token) if token.startswith("{") else token)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nope"], "type: 'nope' is not a message type; known types: "),
        (["welcome", "--to", "ann"], "to: 'ann' is not an email address"),
        (["welcome"], "name: is required; add it"),
        (["welcome", "--set", "name"], "--set: 'name' must be FIELD=VALUE with a field of welcome: "),
        (["welcome", "--set", "nmae=Ann"], "--set: 'nmae' must be FIELD=VALUE"),
        (["welcome", "--payload", "{"], "--payload: is not JSON"),
        (["welcome", "--payload", "[]"], "--payload: must be a JSON object"),
        (["welcome", "--payload", "@/no/such"], "--payload: cannot read '/no/such': No such file"),
        (["welcome", "--set", "name=Ann", "--at", "soon"], '--at: must be a time like "2030-01-31T12:00:00Z"'),
        (["welcome", "--set", "name=Ann", "--lane", "email.fast"], "lane: "),
        (["order_status", "--set", "status=lost"], "name: is required"),
        (["payment_failed", "--set", "amount=ten"], "amount: must be JSON of type integer"),
        (["password_reset", "--set", "name=Ann"], "token: is secret and required; give --set token=@FILE"),
        (["password_reset", "--set", f"token={TOKEN}"], "token: is secret and would stay in the shell's history"),
        (["password_reset", "--payload", json.dumps({"token": TOKEN})], "token: is secret and would stay"),
        (["password_reset", "--set", "token=@/no/such"], "token: cannot read '/no/such'"),
        (
            ["password_reset", "--set", "name=Ann", "--set", 'token={"$ref": "x", "id": 1}'],
            "token: must be a reference",
        ),
    ],
)
def test_bad_input_is_one_line_and_enqueues_nothing(
    send: Send, database: str, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    recipient = [] if "--to" in arguments else ["--to", "ann@example.com"]
    assert send(*arguments, *recipient) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"backline: {error}")
    assert printed.err.count("\n") == 1
    assert TOKEN not in printed.err
    assert messages(database) == []


def test_if_the_database_is_not_available_the_error_names_the_fix(
    send: Send, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKLINE_DATABASE_URL", "postgresql:///x?host=/no/such/folder")
    assert send("welcome", "--to", "ann@example.com", "--set", "name=Ann") == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "nothing was sent. ./backline up starts the embedded database" in printed
