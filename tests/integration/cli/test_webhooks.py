"""`./backline webhooks`: each command on a real database."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet
from psycopg.rows import dict_row

from backline.cli.__main__ import run
from backline.encryption import KEYS_VARIABLE, Encryptor

KEY = Fernet.generate_key().decode()
URL = "https://shop.example/hooks"
Hooks = Callable[..., tuple[int, str]]


@pytest.fixture
def hooks(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hooks:
    """Runs the command; returns its exit code and its output."""
    monkeypatch.setenv("BACKLINE_DATABASE_URL", database)
    monkeypatch.setenv(KEYS_VARIABLE, KEY)
    for name in ("REQUIRE_HTTPS", "ALLOWED_ADDRESSES"):  # the embedded stack sets them
        monkeypatch.delenv(f"BACKLINE__WEBHOOKS__{name}", raising=False)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["backline", "webhooks", *arguments])
        code = run()
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


def run_json(hooks: Hooks, *arguments: str) -> Any:
    code, printed = hooks(*arguments, "--json")
    assert code == 0, printed
    return json.loads(printed)


def rows(database: str, query: Any) -> list[dict[str, Any]]:
    with psycopg.connect(database, row_factory=dict_row) as connection:
        return connection.execute(query).fetchall()


def enqueue(database: str, event_type: str) -> int:
    payload = json.dumps({"event_type": event_type, "data": {}})
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT backline.enqueue('webhook', '*', %s::jsonb)", (payload,)).fetchone()
    assert row
    return int(row[0])


def test_the_life_of_an_endpoint(hooks: Hooks, database: str) -> None:
    code, printed = hooks("add", URL, "--event", "order.*", "--description", "The shop's ERP")
    assert code == 0
    (secret,) = [line for line in printed.splitlines() if line.startswith("whsec_")]
    (row,) = rows(database, "SELECT ciphertext FROM backline.webhook_secret")
    assert Encryptor([KEY]).decrypt("secret", row["ciphertext"]) == secret
    assert secret not in hooks("list")[1] + hooks("show", "ep_1")[1]
    (listed,) = run_json(hooks, "list")
    assert listed == run_json(hooks, "show", "ep_1")
    assert (listed["id"], listed["event_types"], listed["description"]) == ("ep_1", ["order.*"], "The shop's ERP")
    assert "order.*" in hooks("list")[1]
    assert run_json(hooks, "update", "ep_1", "--event", "user.*")["event_types"] == ["user.*"]
    turned = run_json(hooks, "rotate", "ep_1", "--overlap", "60")
    assert turned["secret"].startswith("whsec_")
    assert len(turned["secrets"]) == 2
    enqueue(database, "user.new")
    assert "ep_1 is disabled; 1 messages that waited for it ended" in hooks("disable", "ep_1", "--reason", "moving")[1]
    assert "moving" in hooks("show", "ep_1")[1]
    code, printed = hooks("test", "ep_1")
    assert (code, printed.strip()) == (1, "backline: endpoint ep_1 is disabled: moving; enable it first")
    assert "replay ep_1 --since TIME" in hooks("enable", "ep_1")[1]
    assert len(run_json(hooks, "replay", "ep_1", "--since", "2020-01-01T00:00:00Z")["messages"]) == 1
    assert run_json(hooks, "delete", "ep_1", "--yes") == {"id": "ep_1", "suppressed_count": 1}
    assert "No endpoints yet" in hooks("list")[1]
    acts = rows(database, "SELECT action, actor FROM backline.audit_trail ORDER BY id")
    assert [act["action"].removeprefix("webhook.") for act in acts] == [
        "create", "update", "rotate", "disable", "enable", "replay", "delete",
    ]  # fmt: skip
    assert all(act["actor"].endswith("(command)") for act in acts)


def test_v1a_shows_its_public_key_and_nothing_else(hooks: Hooks, database: str) -> None:
    code, printed = hooks("add", URL, "--scheme", "v1a")
    assert code == 0
    assert "whpk_" in printed
    assert "whsk_" not in printed
    (row,) = rows(database, "SELECT public_key FROM backline.webhook_secret")
    assert row["public_key"] in hooks("show", "ep_1")[1]


def test_a_test_event_and_a_replay(hooks: Hooks, database: str) -> None:
    hooks("add", URL, "--event", "user.*")
    missed = enqueue(database, "order.paid")
    assert "Follow it: ./backline inspect" in hooks("test", "ep_1")[1]
    (again,) = run_json(hooks, "replay", "ep_1", "--message", str(missed))["messages"]
    sent = rows(
        database,
        "SELECT id, payload ->> 'event_type' AS event FROM backline.message WHERE recipient = 'ep_1' ORDER BY id",
    )
    assert [row["event"] for row in sent] == ["backline.test", "order.paid"]
    assert sent[-1]["id"] == again


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["add", "http://shop.example/"], "url: must begin with https://"),
        (["add", "https://127.0.0.1/"], "url: 127.0.0.1 is not a public address"),
        (["add", URL, "--event", "order paid"], "event_types: 'order paid' must be like"),
        (["add", URL, "--scheme", "v9"], "scheme: must be v1"),
        (["show", "ep_9"], "there is no webhook endpoint 'ep_9'"),
        (["replay", "ep_1"], "--since: give either"),
        (["replay", "ep_1", "--since", "yesterday"], "--since: must be a time"),
        (["disable", "ep_1"], "Missing option"),
    ],
)
def test_bad_input_is_one_line_with_the_fix(hooks: Hooks, arguments: list[str], error: str) -> None:
    code, printed = hooks(*arguments)
    assert code != 0
    assert error in printed
    assert len(printed.strip().splitlines()) == 1
