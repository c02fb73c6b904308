"""The receipt of an order, sent with its invoice."""

from __future__ import annotations

import base64

from backline.audit_trail import Actor
from backline.db.connect import Session
from backline.db.statements import statement
from backline.invoices.layout import labels
from backline.invoices.papers import Document
from backline.invoices.settings import InvoiceSettings
from backline.outbox.submission import enqueue, replace_payload

ACTOR = Actor("generate_invoice")


def enqueue_receipt(connection: Session, document: Document, content: bytes, config: InvoiceSettings) -> int | None:
    """Send the receipt with its invoice in the caller's transaction, once per order; returns the message's id.

    None if the payment is older than `invoices.receipt_max_age_hours`.
    """
    payload = {
        "name": document.buyer_name,
        "what": f"{labels(document.language)['order']} {document.order_number}",
        "paid_at": document.paid_at.isoformat(),
        "amount": document.total_minor,
        "currency": document.currency,
        "receipt": document.number,
        # In the message itself: its dispatcher may run on another machine.
        "invoice": {"filename": f"{document.number}.pdf", "content_base64": base64.b64encode(content).decode()},
        "zone": document.buyer_zone,
        "language": document.language,
    }
    values = {
        "order_id": document.order_id, "paid_at": document.paid_at, "max_age_hours": config.receipt_max_age_hours
    }  # fmt: skip
    [found] = connection.execute(statement("invoices", "receipt_find"), values).fetchall()
    receipt: int | None = found["id"]
    if receipt and config.receipt_max_age_hours and replace_payload(connection, receipt, payload, ACTOR):
        return receipt
    if not found["is_recent"]:
        return None
    # The receipt was sent without its invoice, or the payment was recorded elsewhere and has no receipt.
    key = f"payment_receipt/{document.order_id}/invoice"
    return enqueue(connection, "payment_receipt", document.buyer_email, payload, key=key)
