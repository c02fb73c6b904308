"""Issues invoices and credit notes, writes their PDF files, and sends each first invoice with the receipt.

An order has its invoice once it is paid and its credit note once it is refunded, each exactly once. One short transaction
takes the number and inserts the invoice while it locks the series' row: numbers have no gaps, and a rollback returns its
number. No file is generated under that lock.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from backline.audit_trail import Actor
from backline.db.connect import Session, fetch, fetch_one
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.files import write_file
from backline.invoices.documents import CURRENT_LAYOUT, Document, labels, load_document, render_document_pdf
from backline.invoices.settings import InvoiceSettings
from backline.jobs.batch import BatchResult
from backline.jobs.job import Job
from backline.outbox.submission import enqueue, replace_payload
from backline.rendering.settings import TemplateSettings
from backline.settings import resolve_folder, settings

log = logging.getLogger(__name__)

ACTOR = Actor("generate_invoice")
MAX_LISTED = 20
"""Documents that the result lists; all are counted."""
US_LETTER_COUNTRIES = frozenset(["BZ", "CA", "CL", "CO", "CR", "GT", "MX", "NI", "PA", "PH", "PR", "SV", "US", "VE"])
"""Countries that print on US Letter (CLDR, supplemental data, paperSize)."""


@dataclass(frozen=True, slots=True)
class DueOrder:
    """An order that lacks a document or its file."""

    id: int


@dataclass(frozen=True, slots=True)
class _LockedOrder:
    is_paid: bool
    is_refunded: bool
    country: str
    language: str


@dataclass(frozen=True, slots=True)
class _IssuedDocument:
    id: int
    is_credit_note: bool


@dataclass(frozen=True, slots=True)
class GeneratedDocument:
    """A document whose file was written."""

    number: str
    order_id: int
    file: str
    is_identical: bool | None
    """Whether the file equals the first one, byte for byte; None for the first."""
    receipt_id: int | None
    """The message that was sent with it, if any."""


def generate_invoice(job: Job[InvoiceSettings]) -> dict[str, object]:
    """Generate the documents of the order `order_id`, or of all recent orders that lack some."""
    documents: list[GeneratedDocument] = []

    def generate(order_id: int) -> None:
        documents.extend(generate_for_order(job.database, order_id, job.settings, job.now))

    if (order_id := job.params.optional("order_id", int)) is not None:
        generate(order_id)
        job.resolve_item(str(order_id))
        orders = BatchResult(done=1)
    else:
        due = job.scan(statement("invoices", "orders_due"), DueOrder, {"lookback_days": job.settings.lookback_days})
        # Each order takes several transactions: no file is generated while the invoice series is locked.
        orders = job.run_each(
            due, lambda order: generate(order.id), limit=job.settings.batch_limit, transactional=False
        )
    return {
        "orders": orders,
        "documents": len(documents),
        "receipts": sum(document.receipt_id is not None for document in documents),
        "generated": documents[:MAX_LISTED],
    }


def generate_for_order(
    database: Session, order_id: int, config: InvoiceSettings, now: datetime
) -> list[GeneratedDocument]:
    """Issue the documents that an order lacks, and write the files of all its documents.

    InvalidInput if the order does not exist or is not paid; Misconfigured or ResourceExhausted if a file cannot be
    written. What was issued stays issued, and its file comes with the next run.
    """
    ids = issue(database, order_id, config, settings().section(TemplateSettings).time_zone, now)
    return [_generate_file(database, load_document(database, number), config, now) for number in ids]


def issue(connection: Session, order_id: int, config: InvoiceSettings, zone: str, now: datetime) -> list[int]:
    """Issue the documents that the order lacks; returns the ids of its invoice and, if refunded, its credit note.

    The series' year is that of `now` in `zone`. InvalidInput if the order does not exist or is not paid.
    """
    with connection.transaction():
        key = {"order_id": order_id}
        order = fetch_one(connection, statement("invoices", "order_lock"), _LockedOrder, key)
        if order is None:
            raise InvalidInput("order_id", f"there is no order {order_id}")
        found = fetch(connection, statement("invoices", "documents_of_order"), _IssuedDocument, key)
        issued = {document.is_credit_note: document.id for document in found}
        invoice, credit_note = issued.get(False), issued.get(True)
        if invoice is None and not order.is_paid:
            raise InvalidInput("order_id", f"order {order_id} is not paid; an invoice is issued once it is")
        common = _document_values(config, zone, order.country)
        year = now.astimezone(ZoneInfo(zone)).year
        if invoice is None:
            values = {**common, "series": config.series.format(year=year), "order_id": order_id}
            values["shipping"] = labels(order.language)["shipping"]
            invoice = _issued_id(fetch_one(connection, statement("invoices", "invoice_issue"), int, values))
        if credit_note is None and order.is_refunded:
            values = {**common, "series": config.credit_note_series.format(year=year), "credits_id": invoice}
            credit_note = _issued_id(fetch_one(connection, statement("invoices", "credit_note_issue"), int, values))
        ids = [invoice] if credit_note is None else [invoice, credit_note]
        for invoice_id in ids:
            connection.execute(statement("invoices", "document_ensure"), {**common, "invoice_id": invoice_id})
    return ids


def _document_values(config: InvoiceSettings, zone: str, country: str) -> dict[str, Any]:
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


def _issued_id(found: int | None) -> int:
    if found is None:  # order and customer are locked, so only a custom statement can return none
        raise InvalidInput(
            "order_id", "the statement that issues a document returned no row; see include/sql/invoices.sql"
        )
    return found


def _generate_file(database: Session, document: Document, config: InvoiceSettings, now: datetime) -> GeneratedDocument:
    """Write a document's file; the first time, store its checksum and send the receipt in one transaction."""
    pdf = render_document_pdf(document)
    path = resolve_folder(config.folder) / f"{document.number}.pdf"
    write_file(path, pdf, setting="invoices.folder")
    values = {"invoice_id": document.id, "sha256": hashlib.sha256(pdf).digest()}
    is_identical: bool | None = None
    receipt_id: int | None = None
    with database.transaction():
        is_first = bool(fetch(database, statement("invoices", "document_set_checksum"), int, values))
        if is_first and not document.is_credit_note:
            receipt_id = _enqueue_receipt(database, document, pdf, config.receipt_max_age_hours, now)
    if not is_first:
        # A concurrent run may have stored the checksum after this document was loaded.
        stored = document.pdf_sha256 or load_document(database, document.id).pdf_sha256
        is_identical = stored == values["sha256"]
        if not is_identical:
            log.warning(
                "%s: the file differs from the first one: its rows, fonts or libraries changed", document.number
            )
    return GeneratedDocument(document.number, document.order_id, str(path), is_identical, receipt_id)


def _enqueue_receipt(
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
    waiting = fetch_one(database, statement("invoices", "receipt_find"), int, {"order_id": document.order_id})
    if waiting is not None and max_age_hours and replace_payload(database, waiting, payload, ACTOR):
        return waiting
    if document.paid_at <= now - timedelta(hours=max_age_hours):
        return None
    key = f"order:{document.order_id}:invoice"
    return enqueue(database, "payment_receipt", document.buyer_email, payload, key=key)
