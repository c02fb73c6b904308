"""`generate_invoice`: a paid order's invoice reaches the customer with the receipt; generated again, it is the same file."""

from __future__ import annotations

import io
import json
from email import message_from_string
from email.policy import default
from pathlib import Path

import pytest
from pypdf import PdfReader

from backline.db.connect import session
from demo.context import DemoContext
from stack.reference_app import apply_schema
from tests.acceptance.isolated_stack import IsolatedStack
from tests.integration.shop import Line, Shop

pytestmark = pytest.mark.stack


def raw(stack: IsolatedStack, arrival: int) -> str:
    """The caught file in the Maildir."""
    [path] = (stack.home / "mail" / "new").glob(f"{arrival // 1_000_000}.M{arrival % 1_000_000:06}P*")
    return path.read_bytes().decode()


def test_a_paid_order_is_invoiced_and_the_invoice_arrives(stack: IsolatedStack, context: DemoContext) -> None:
    dsn, address = stack.exports()["BACKLINE_DATABASE_URL"], context.recipients("invoice")["email"]
    apply_schema(dsn)
    with session(dsn, name="test") as connection:
        shop = Shop(connection)
        order = shop.order(
            Line(2, 2450, 1900, "Espresso cups"), customer=shop.customer(address), state="paid", shipping_minor=490
        )

    def run() -> dict[str, object]:
        conf = json.dumps({"order_id": order})
        done = json.loads(stack.run("trigger", "generate_invoice", "--conf", conf, "--wait", "--json").stdout)
        [document] = context.airflow.xcom("generate_invoice", done["run_id"], "generate_invoice")["generated"]
        found: dict[str, object] = document
        return found

    # No run is requested: the paid order starts one.
    [mail] = context.wait_for_emails(address.partition("@")[2], 1)
    message = message_from_string(raw(stack, mail.id), policy=default)
    [attached] = message.iter_attachments()
    content = attached.get_content()
    again = run()
    assert (again["order_id"], again["is_identical"], again["receipt_id"]) == (order, True, None)
    assert content == Path(str(again["file"])).read_bytes()
    text = PdfReader(io.BytesIO(content)).pages[0].extract_text()
    # 49.00 net, 9.31 tax, 4.90 shipping.
    assert str(again["number"]) in text
    assert "€63.21" in text
    assert len(context.emails_at(address.partition("@")[2])) == 1
