"""Issues invoices and credit notes, writes their PDF files, and sends each first invoice with the receipt."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime

from backline.db.connect import Session
from backline.db.statements import statement
from backline.files import write_file
from backline.invoices.documents import Document, load_document, render_document_pdf
from backline.invoices.issuing import issue
from backline.invoices.notifications import enqueue_receipt
from backline.invoices.settings import InvoiceSettings
from backline.jobs.batch import BatchResult
from backline.jobs.job import Job
from backline.rendering.settings import TemplateSettings
from backline.settings import resolve_folder, settings

log = logging.getLogger(__name__)

MAX_LISTED = 20
"""Documents that the result lists; all are counted."""


@dataclass(frozen=True, slots=True)
class DueOrder:
    """An order that lacks a document or its file."""

    id: int


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


def _generate_file(database: Session, document: Document, config: InvoiceSettings, now: datetime) -> GeneratedDocument:
    """Write a document's file; the first time, store its checksum and send the receipt in one transaction."""
    pdf = render_document_pdf(document)
    path = resolve_folder(config.folder) / f"{document.number}.pdf"
    write_file(path, pdf, setting="invoices.folder")
    values = {"invoice_id": document.id, "sha256": hashlib.sha256(pdf).digest()}
    is_identical: bool | None = None
    receipt_id: int | None = None
    with database.transaction():
        is_first = database.execute(statement("invoices", "document_set_checksum"), values).fetchone() is not None
        if is_first and not document.is_credit_note:
            receipt_id = enqueue_receipt(database, document, pdf, config.receipt_max_age_hours, now)
    if not is_first:
        # A concurrent run may have stored the checksum after this document was loaded.
        stored = document.pdf_sha256 or load_document(database, document.id).pdf_sha256
        is_identical = stored == values["sha256"]
        if not is_identical:
            log.warning(
                "%s: the file differs from the first one: its rows, fonts or libraries changed", document.number
            )
    return GeneratedDocument(document.number, document.order_id, str(path), is_identical, receipt_id)
