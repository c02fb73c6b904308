"""The receipt of a payment with its invoice attached."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

from backline.audit_trail import Actor
from backline.db.connect import Session
from backline.db.statements import statement
from backline.invoices.documents import Document, labels
from backline.outbox.submission import enqueue, replace_payload

ACTOR = Actor("generate_invoice")


def enqueue_receipt(
    database: Session, document: Document, pdf: bytes, max_age_hours: float, now: datetime
) -> int | None:
    """Send an invoice with the receipt, in the caller's transaction; returns the message's id.

    A receipt that still waits for the invoice gets it and is sent; otherwise a second receipt brings it. None, and no
    message, if the payment is more than `max_age_hours` old, or if that is 0.
    """
    payload = {
        "name": document.buyer_name,
        "what": f"{labels(document.language)['order']} {document.order_number}",
        "paid_at": document.paid_at.isoformat(),
        "amount": document.total_minor,
        "currency": document.currency,
        "receipt": document.number,
        # In the message itself: the dispatcher may run on another machine.
        "invoice": {"filename": f"{document.number}.pdf", "content_base64": base64.b64encode(pdf).decode()},
        "zone": document.buyer_zone,
        "language": document.language,
    }
    waiting = database.execute(statement("invoices", "receipt_find"), {"order_id": document.order_id}).fetchone()
    if waiting is not None and max_age_hours and replace_payload(database, waiting["id"], payload, ACTOR):
        return int(waiting["id"])
    if document.paid_at <= now - timedelta(hours=max_age_hours):
        return None
    key = f"payment_receipt/{document.order_id}/invoice"
    return enqueue(database, "payment_receipt", document.buyer_email, payload, key=key)
