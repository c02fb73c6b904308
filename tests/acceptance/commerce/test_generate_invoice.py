"""`generate_invoice`: a paid order's invoice reaches the customer with the receipt, and is the same file when made again."""

from __future__ import annotations

import io
import json
from email import message_from_string
from email.policy import default
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row
from pypdf import PdfReader

from backline.reference_app import apply_schema
from demo.context import DemoContext
from tests.acceptance.isolated_stack import IsolatedStack
from tests.acceptance.test_types import raw
from tests.integration.invoices.support import place_order

pytestmark = pytest.mark.stack


def test_a_paid_order_is_invoiced_and_the_invoice_arrives(stack: IsolatedStack, context: DemoContext) -> None:
    dsn, address = stack.exports()["BACKLINE_DATABASE_URL"], context.recipients("invoice")["email"]
    apply_schema(dsn)
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        user = connection.execute(
            "INSERT INTO app.users (email, name, country) VALUES (%s, 'Ann', 'DE') RETURNING id", [address]
        ).fetchone()
        connection.execute(
            "INSERT INTO app.products (sku, name) SELECT 'CUPS', 'Cups' WHERE NOT EXISTS (SELECT FROM app.products WHERE id = 1)"
        )
        assert user is not None
        order = place_order(connection, f"A-{context.tag}", [("Espresso cups", 2, 2450, 1900)], user_id=user["id"])

    def run() -> dict[str, object]:
        conf = json.dumps({"order_id": order})
        done = json.loads(stack.run("trigger", "generate_invoice", "--conf", conf, "--wait", "--json").stdout)
        [made] = context.airflow.xcom("generate_invoice", done["run_id"], "make")["made"]
        found: dict[str, object] = made
        return found

    # Nobody starts it: that the order is paid does.
    [mail] = context.wait_for_emails(address.partition("@")[2], 1)
    letter = message_from_string(raw(stack, mail.id), policy=default)
    [attached] = letter.iter_attachments()
    content = attached.get_content()
    again = run()
    assert (again["order_id"], again["is_identical"], again["receipt_id"]) == (order, True, None)
    assert content == Path(str(again["file"])).read_bytes()
    text = PdfReader(io.BytesIO(content)).pages[0].extract_text()
    # 49.00 net, 9.31 tax, 4.90 shipping.
    assert str(again["number"]) in text
    assert "€63.21" in text
    assert len(context.emails_at(address.partition("@")[2])) == 1
