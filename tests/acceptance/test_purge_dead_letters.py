"""`purge_dead_letters`: expired dead letters move to an archive file."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backline.dead_letters.failures import REPORTED, Failure
from backline.dead_letters.store import DeadLetterStore
from backline.errors import FailureClass
from demo.context import DemoContext
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack


def test_old_letters_are_archived_and_deleted(stack: IsolatedStack, context: DemoContext) -> None:
    dsn, name = stack.exports()["BACKLINE_DATABASE_URL"], f"purged_{context.tag}"
    with DeadLetterStore.open(dsn) as letters:
        for run_id in ("old", "young"):
            letters.record(Failure(name, run_id, "work", -1, FailureClass.NETWORK, f"cause of {run_id}", REPORTED, 4,
                                   {"days": 1}, None, datetime.now(UTC)))  # fmt: skip
    with psycopg.connect(dsn, autocommit=True) as connection:
        # Their alerts are sent; this test is about their expiry.
        connection.execute(
            "UPDATE backline.dead_letter SET alerted_at = now(), last_seen_at = now() - CASE run_id WHEN 'old' THEN"
            " interval '8 days' ELSE interval '6 days' END WHERE name = %s", [name],
        )  # fmt: skip

    def remaining() -> list[str]:
        rows = json.loads(stack.run("dead-letters", "list", "--name", name, "--json").stdout)
        return [row["run_id"] for row in rows]

    def run(conf: str) -> dict[str, Any]:
        done = json.loads(stack.run("trigger", "purge_dead_letters", "--conf", conf, "--wait", "--json").stdout)
        report: dict[str, Any] = context.airflow.xcom("purge_dead_letters", done["run_id"], "purge_dead_letters")
        return report

    dry = run('{"dry_run": true}')
    assert (dry["dry_run"], dry["letters"], dry["files"]) == (True, 1, [])
    assert remaining() == ["young", "old"]

    report = run("{}")
    [file] = report["files"]
    assert Path(file).is_relative_to(stack.home)
    rows = [json.loads(line) for line in gzip.decompress(Path(file).read_bytes()).splitlines()]
    assert [(row["run_id"], row["cause"], row["conf"]) for row in rows] == [("old", "cause of old", {"days": 1})]
    assert remaining() == ["young"]
