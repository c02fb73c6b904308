"""`./backline seed`: a shop's data in the embedded database."""

from __future__ import annotations

import json

import psycopg
import pytest

from stack.reference_app import invariant_violations
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack


def test_seed_fills_rejects_a_second_time_and_replaces(basics: IsolatedStack) -> None:
    basics.run("setup")
    dsn = basics.exports()["BACKLINE_DATABASE_URL"]
    with psycopg.connect(dsn) as connection:
        messages = connection.execute("SELECT count(*) FROM backline.message").fetchone()
    made = json.loads(basics.run("seed", "--seed", "5", "--json").stdout)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM app.users").fetchone() == (made["tables"]["users"],)
        assert connection.execute("SELECT count(*) FROM backline.message").fetchone() == messages
    assert made["rows"] == sum(made["tables"].values()) > 8_000
    assert invariant_violations(dsn) == {}

    second = basics.run("seed", check=False)
    assert second.returncode == 1
    assert "--replace deletes them first" in second.stderr
    assert "Traceback" not in second.stderr

    shown = basics.run("seed", "--scale", "2", "--replace")
    assert "emptying schema app: " in shown.stderr
    assert ["users", "300"] in [line.split()[:2] for line in shown.stdout.splitlines()]

    with psycopg.connect(dsn) as connection:
        connection.execute("COMMENT ON SCHEMA app IS 'another app'")
    foreign = basics.run("seed", "--replace", check=False)
    assert foreign.returncode == 1
    assert "not Backline's reference app" in foreign.stderr
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM app.users").fetchone() == (300,)
        connection.execute("DROP SCHEMA app CASCADE")
