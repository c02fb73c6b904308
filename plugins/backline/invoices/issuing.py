"""Issuing: an order's invoice once it is paid and its credit note once it is refunded, each exactly once.

One short transaction takes the number and inserts the invoice while it locks the series' row: numbers have no gaps, and a
rollback returns its number. No file is generated under that lock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from backline.db.connect import Session
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.invoices.documents import CURRENT_LAYOUT, labels
from backline.invoices.settings import InvoiceSettings

US_LETTER_COUNTRIES = frozenset(["BZ", "CA", "CL", "CO", "CR", "GT", "MX", "NI", "PA", "PH", "PR", "SV", "US", "VE"])
"""Countries that print on US Letter (CLDR, supplemental data, paperSize)."""


def issue(connection: Session, order_id: int, config: InvoiceSettings, zone: str, now: datetime) -> list[int]:
    """Issue the documents that the order lacks; returns the ids of its invoice and, if refunded, its credit note.

    The series' year is that of `now` in `zone`. InvalidInput if the order does not exist or is not paid.
    """
    with connection.transaction():
        order = connection.execute(statement("invoices", "order_lock"), {"order_id": order_id}).fetchone()
        if order is None:
            raise InvalidInput("order_id", f"there is no order {order_id}")
        issued = connection.execute(statement("invoices", "documents_of_order"), {"order_id": order_id}).fetchall()
        invoice = next((row["id"] for row in issued if not row["is_credit_note"]), None)
        credit_note = next((row["id"] for row in issued if row["is_credit_note"]), None)
        if invoice is None and not order["is_paid"]:
            raise InvalidInput("order_id", f"order {order_id} is not paid; an invoice is issued once it is")
        common = document_values(config, zone, order["country"])
        year = now.astimezone(ZoneInfo(zone)).year
        if invoice is None:
            values = {**common, "series": config.series.format(year=year), "order_id": order_id}
            values["shipping"] = labels(order["language"])["shipping"]
            invoice = _issued_id(connection.execute(statement("invoices", "invoice_issue"), values).fetchone())
        if credit_note is None and order["is_refunded"]:
            values = {**common, "series": config.credit_note_series.format(year=year), "credits_id": invoice}
            credit_note = _issued_id(connection.execute(statement("invoices", "credit_note_issue"), values).fetchone())
        documents = [invoice] if credit_note is None else [invoice, credit_note]
        for document in documents:
            connection.execute(statement("invoices", "document_ensure"), {**common, "invoice_id": document})
    return documents


def document_values(config: InvoiceSettings, zone: str, country: str) -> dict[str, Any]:
    """The parts of a document issued now that are not figures."""
    seller = {
        "name": config.seller_name,
        "address": list(config.seller_address),
        "tax_id": config.seller_tax_id,
        "email": config.seller_email,
    }
    customary = "Letter" if country in US_LETTER_COUNTRIES else "A4"
    page_size = customary if config.page_size == "auto" else config.page_size
    return {"seller": json.dumps(seller), "page_size": page_size, "zone": zone, "layout": CURRENT_LAYOUT}


def _issued_id(row: Mapping[str, Any] | None) -> int:
    if row is None:  # order and customer are locked, so only a custom statement can return none
        raise InvalidInput(
            "order_id", "the statement that issues a document returned no row; see include/sql/invoices.sql"
        )
    return int(row["id"])
