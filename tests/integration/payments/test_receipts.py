"""The receipt of a payment waits for its invoice, and is sent once, with or without it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backline.audit_trail import Actor
from backline.invoices.generate_invoice import generate_for_order
from backline.invoices.settings import InvoiceSettings
from backline.outbox.submission import replace_payload
from backline.payments.charges import charge
from backline.payments.stripe_client import StripeProvider
from tests.integration.payments.support import Shop

CONFIG = InvoiceSettings()
ROWS = "SELECT id, state::text AS state, due_at - now() > interval '30 seconds' AS waits, payload FROM backline.message ORDER BY id"


@pytest.fixture
def paid_order(shop: Shop, provider: StripeProvider) -> int:
    order = shop.order()
    assert charge(shop.database, provider, order).state == "paid"
    return order


def receipts(shop: Shop) -> list[dict[str, Any]]:
    return shop.execute(ROWS)


def test_a_waiting_receipt_gets_the_invoice(shop: Shop, paid_order: int, tmp_path: Path) -> None:
    [waiting] = receipts(shop)
    assert (waiting["state"], waiting["waits"], "invoice" in waiting["payload"]) == ("scheduled", True, False)
    [made] = generate_for_order(
        shop.database, paid_order, CONFIG.model_copy(update={"folder": str(tmp_path)}), datetime.now(UTC)
    )
    [sent] = receipts(shop)
    assert (sent["id"], sent["state"], sent["waits"]) == (waiting["id"], "pending", False)
    assert made.receipt_id == sent["id"]
    assert sent["payload"]["invoice"]["filename"] == f"{made.number}.pdf"
    [entry] = shop.execute("SELECT actor, action FROM backline.audit_trail")
    assert entry == {"actor": "generate_invoice", "action": "message.replace_payload"}


def test_a_sent_receipt_is_followed_by_one_with_the_invoice(shop: Shop, paid_order: int, tmp_path: Path) -> None:
    shop.execute("UPDATE backline.message SET state = 'pending', due_at = now()")
    for _ in range(2):
        generate_for_order(
            shop.database, paid_order, CONFIG.model_copy(update={"folder": str(tmp_path)}), datetime.now(UTC)
        )
    assert ["invoice" in row["payload"] for row in receipts(shop)] == [False, True]


@pytest.mark.usefixtures("paid_order")
def test_a_receipt_that_was_attempted_does_not_change(shop: Shop) -> None:
    [receipt] = receipts(shop)
    shop.execute("UPDATE backline.message SET attempt = 1")  # attempted, and scheduled again
    assert replace_payload(shop.database, receipt["id"], receipt["payload"], Actor("test")) is False
    [after] = receipts(shop)
    assert after["state"] == "scheduled"
    assert shop.execute("SELECT 1 FROM backline.audit_trail") == []
