"""The messages that customers get about payments, each enqueued in the transaction that it reports."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from psycopg.rows import DictRow

from backline.outbox.submission import enqueue
from backline.payments.repository import RunStatement


def enqueue_receipt(run: RunStatement, payment_id: int, delay_seconds: float) -> None:
    """Enqueue the receipt of a captured payment, once per order. Until it is due, the invoice can be added to it."""
    [row] = run("payment_notice_get", payment_id=payment_id)
    if row["state"] != "captured":
        return
    payload = _payload(row, paid_at=row["captured_at"], zone=row["zone"])
    due_at = row["captured_at"] + timedelta(seconds=delay_seconds)
    key = f"payment_receipt/{row['order_id']}"
    enqueue(run.database, "payment_receipt", row["email"], payload, key=key, due_at=due_at)


def enqueue_payment_failed(run: RunStatement, payment_id: int, reason: str | None, fix_url: str) -> None:
    """Tell the customer, unless deactivated, that an attempt failed, once per attempt."""
    [row] = run("payment_notice_get", payment_id=payment_id)
    if row["customer_is_deactivated"]:
        return
    payload = _payload(
        row, reason=reason, fix_url=fix_url.replace("{order}", row["order_number"]), retry_on=row["retry_on"]
    )
    key = f"payment_failed:{payment_id}:{row['attempts']}:{row['state']}"
    enqueue(run.database, "payment_failed", row["email"], payload, key=key)


def _payload(row: DictRow, **more: Any) -> dict[str, Any]:
    """What both have in common, and more; what is None is left out."""
    order = "Bestellung" if row["language"].startswith("de") else "Order"
    common = {
        "name": row["name"], "what": f"{order} {row['order_number']}", "amount": row["amount_minor"],
        "currency": row["currency"], "language": row["language"],
    }  # fmt: skip
    return {name: value for name, value in {**common, **more}.items() if value is not None}
