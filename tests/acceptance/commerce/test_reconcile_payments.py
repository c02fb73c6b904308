"""`reconcile_payments`: payments are compared with a statement; a safe discrepancy is fixed, the others are reported."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from backline.db.connect import session
from demo.context import DemoContext
from stack.reference_app import apply_schema
from tests.acceptance.isolated_stack import IsolatedStack
from tests.integration.reconciliation.support import insert_payment, statement_line, write_statement
from tests.integration.shop import Shop

pytestmark = pytest.mark.stack


def test_a_statement_is_reconciled(stack: IsolatedStack, context: DemoContext) -> None:
    dsn = stack.exports()["BACKLINE_DATABASE_URL"]
    apply_schema(dsn)
    waiting, lost, unknown = (f"pi_{name}_{context.tag}" for name in ("waiting", "lost", "unknown"))
    with session(dsn, name="test") as connection:
        shop = Shop(connection)
        payment = insert_payment(shop, waiting, state="pending")
        insert_payment(shop, lost)
        folder = Path(stack.home) / "archive" / "provider_lists"
        write_statement(folder / f"stripe_{context.tag}.csv", statement_line(waiting), statement_line(unknown))
        conf = json.dumps({"file": f"stripe_{context.tag}.csv", "days": 0.25})
        done = json.loads(stack.run("trigger", "reconcile_payments", "--conf", conf, "--wait", "--json").stdout)
        result = context.airflow.xcom("reconcile_payments", done["run_id"], "reconcile_payments")
        assert shop.payment(payment.order)["state"] == "captured"
    with Path(result["csv"]).open(newline="") as file:
        found = {(line["reference"], line["kind"], line["fixed"]) for line in csv.DictReader(file)}
    assert found >= {
        (waiting, "status", "yes"),
        (lost, "missing_there", "no"),
        (unknown, "missing_here", "no"),
    }
    assert Path(result["pdf"]).read_bytes().startswith(b"%PDF-")
    assert result["alerts"] == 1
