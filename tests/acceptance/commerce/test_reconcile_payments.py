"""`reconcile_payments`: the provider's list is held against our payments; what is safe is booked, the rest is told."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from backline.reference_app import apply_schema
from demo.context import DemoContext
from tests.acceptance.isolated_stack import IsolatedStack
from tests.integration.reconciliation.support import insert_payment, statement_line, write_statement

pytestmark = pytest.mark.stack


def test_a_list_is_reconciled(stack: IsolatedStack, context: DemoContext) -> None:
    dsn = stack.exports()["BACKLINE_DATABASE_URL"]
    apply_schema(dsn)
    waiting, lost, unknown = (f"pi_{name}_{context.tag}" for name in ("waiting", "lost", "unknown"))
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(
            "INSERT INTO app.users (email, name, country) SELECT 'ann@example.com', 'Ann', 'DE' WHERE NOT EXISTS (SELECT FROM app.users WHERE id = 1)"
        )
        connection.execute(
            "INSERT INTO app.products (sku, name) SELECT 'CUPS', 'Cups' WHERE NOT EXISTS (SELECT FROM app.products WHERE id = 1)"
        )
        made = insert_payment(connection, waiting, state="pending")
        insert_payment(connection, lost)
        folder = Path(stack.home) / "archive" / "provider_lists"
        folder.mkdir(parents=True, exist_ok=True)
        write_statement(folder / f"stripe_{context.tag}.csv", statement_line(waiting), statement_line(unknown))
        conf = json.dumps({"file": f"stripe_{context.tag}.csv", "days": 0.25})
        done = json.loads(stack.run("trigger", "reconcile_payments", "--conf", conf, "--wait", "--json").stdout)
        report = context.airflow.xcom("reconcile_payments", done["run_id"], "reconcile")
        state = connection.execute("SELECT state FROM app.payments WHERE id = %s", [made["payment"]]).fetchone()
    assert state == {"state": "captured"}
    with Path(report["csv"]).open(newline="") as file:
        found = {(line["reference"], line["kind"], line["mended"]) for line in csv.DictReader(file)}
    assert found >= {
        (waiting, "status", "yes"),
        (lost, "missing_there", "no"),
        (unknown, "missing_here", "no"),
    }
    assert Path(report["pdf"]).read_bytes().startswith(b"%PDF-")
    assert report["alerts"] == 1
