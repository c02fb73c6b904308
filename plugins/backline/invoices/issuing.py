"""Issuing: an order's invoice once it is paid, its credit note once it is refunded; each once, whoever asks.

The number is taken, and the invoice written, in one short transaction that holds the series' row: numbers have no gaps,
and what is rolled back gives its number back. No file is made while that lock is held.
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
from backline.invoices.layout import CURRENT_LAYOUT, labels
from backline.invoices.settings import InvoiceSettings

US_LETTER_COUNTRIES = frozenset(["BZ", "CA", "CL", "CO", "CR", "GT", "MX", "NI", "PA", "PH", "PR", "SV", "US", "VE"])
"""Where people print on US Letter (CLDR, supplemental data, paperSize)."""


def issue(connection: Session, order_id: int, config: InvoiceSettings, zone: str, now: datetime) -> list[int]:
    """Issue what the order calls for and does not have yet; returns the ids of its invoice and credit note.

    `zone` decides in which year `now` lies. InvalidInput if there is no such order, or it is not paid.
    """
    with connection.transaction():
        found = connection.execute(statement("invoices", "order_lock"), {"order_id": order_id}).fetchone()
        if found is None:
            raise InvalidInput("order_id", f"there is no order {order_id}")
        papers = connection.execute(statement("invoices", "documents_of_order"), {"order_id": order_id}).fetchall()
        invoice = next((row["id"] for row in papers if not row["is_credit_note"]), None)
        credit_note = next((row["id"] for row in papers if row["is_credit_note"]), None)
        if invoice is None and not found["is_paid"]:
            raise InvalidInput("order_id", f"order {order_id} is not paid; an invoice is issued once it is")
        common = document_values(config, zone, found["country"])
        year = now.astimezone(ZoneInfo(zone)).year
        if invoice is None:
            values = {**common, "series": config.series.format(year=year), "order_id": order_id}
            values["shipping"] = labels(found["language"])["shipping"]
            invoice = _issued_id(connection.execute(statement("invoices", "invoice_issue"), values).fetchone())
        if credit_note is None and found["is_refunded"]:
            values = {**common, "series": config.credit_note_series.format(year=year), "credits_id": invoice}
            credit_note = _issued_id(connection.execute(statement("invoices", "credit_note_issue"), values).fetchone())
        for paper in (one for one in (invoice, credit_note) if one is not None):
            connection.execute(statement("invoices", "document_ensure"), {**common, "invoice_id": paper})
    return [invoice] if credit_note is None else [invoice, credit_note]


def document_values(config: InvoiceSettings, zone: str, country: str) -> dict[str, Any]:
    """What a paper issued now says besides its figures."""
    seller = {
        "name": config.seller_name,
        "address": list(config.seller_address),
        "tax_id": config.seller_tax_id,
        "email": config.seller_email,
    }
    page = config.page_size if config.page_size != "auto" else "Letter" if country in US_LETTER_COUNTRIES else "A4"
    return {"seller": json.dumps(seller), "page_size": page, "zone": zone, "layout": CURRENT_LAYOUT}


def _issued_id(row: Mapping[str, Any] | None) -> int:
    if row is None:  # the order and its customer are locked: only a statement of one's own can do this
        raise InvalidInput("order_id", "the statement that issues an invoice gave no row; see include/sql/invoices.sql")
    return int(row["id"])
