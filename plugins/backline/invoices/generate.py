"""Making the papers of orders: issued, written as files, and the receipt sent with the first of them."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backline.db.connect import Session
from backline.db.statements import statement
from backline.errors import BacklineError, Misconfigured, PermanentError, ResourceExhausted
from backline.invoices.issuing import issue
from backline.invoices.layout import render_document_pdf
from backline.invoices.notifications import enqueue_receipt
from backline.invoices.papers import Document, load_document
from backline.invoices.settings import InvoiceSettings
from backline.rendering.settings import TemplateSettings
from backline.settings import settings

log = logging.getLogger(__name__)

MAX_LISTED = 20
"""Papers and failures that a report lists; the others are counted."""


@dataclass(frozen=True, slots=True)
class GeneratedDocument:
    """One paper that was made."""

    number: str
    order_id: int
    file: str
    is_identical: bool | None
    """Made again: whether it has the bytes of the first time. None the first time."""
    receipt_id: int | None
    """The message that it went out with, if it did now."""


@dataclass(slots=True)
class GenerationReport:
    """What a run did."""

    orders: int = 0
    documents: int = 0
    receipts: int = 0
    generated: list[GeneratedDocument] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    """Why, by order."""

    def as_dict(self) -> dict[str, Any]:
        """For the run's result."""
        return {
            **asdict(self),
            "made": [asdict(one) for one in self.generated[:MAX_LISTED]],
            "failed": {str(order): why for order, why in list(self.failed.items())[:MAX_LISTED]},
            "failures": len(self.failed),
        }


def generate_for_order(
    connection: Session, order_id: int, config: InvoiceSettings, folder: Path
) -> list[GeneratedDocument]:
    """Issue what the order calls for, and make the files of all its papers.

    InvalidInput if there is no such order or it is not paid; Misconfigured or ResourceExhausted if a file cannot be
    written: what was issued is issued, and its file comes with the next run.
    """
    zone = settings().section(TemplateSettings).time_zone
    ids = issue(connection, order_id, config, zone, datetime.now(UTC))
    return [generate_file(connection, load_document(connection, number), config, folder) for number in ids]


def generate_due(
    connection: Session,
    config: InvoiceSettings,
    folder: Path,
    progress: Callable[[float, str], object] = lambda _percent, _doing: None,
) -> GenerationReport:
    """Do the same for the orders that lack something, `batch_limit` at most; one that fails harms no other."""
    report = GenerationReport()
    values = {"lookback_days": config.lookback_days, "batch_limit": config.batch_limit}
    due = [row["order_id"] for row in connection.execute(statement("invoices", "orders_due"), values)]
    for place, order_id in enumerate(due):
        progress(100 * place / len(due), f"order {order_id}")
        report.orders += 1
        try:
            made = generate_for_order(connection, order_id, config, folder)
        except PermanentError as exc:
            log.warning("order %s has no invoice: %s", order_id, exc)
            report.failed[order_id] = str(exc)
            continue
        report.generated += made
        report.documents += len(made)
        report.receipts += sum(one.receipt_id is not None for one in made)
    return report


def generate_file(connection: Session, document: Document, config: InvoiceSettings, folder: Path) -> GeneratedDocument:
    """Write a paper's file; the first time, its checksum and the receipt are stored together."""
    content = render_document_pdf(document)
    digest = hashlib.sha256(content).digest()
    file = write_file(folder, document.number, content)
    receipt: int | None = None
    with connection.transaction():
        values = {"invoice_id": document.id, "sha256": digest}
        first = connection.execute(statement("invoices", "document_set_checksum"), values).fetchone()
        if first is not None and not document.is_credit_note:
            receipt = enqueue_receipt(connection, document, content, config)
    if first is not None:
        return GeneratedDocument(document.number, document.order_id, str(file), None, receipt)
    known = document.pdf_sha256 or load_document(connection, document.id).pdf_sha256  # another run made it meanwhile
    if known != digest:
        log.warning("%s: the file differs from the first one; fonts or libraries are others now", document.number)
    return GeneratedDocument(document.number, document.order_id, str(file), known == digest, None)


def write_file(folder: Path, number: str, content: bytes) -> Path:
    """Put a file in its place, whole or not at all; Misconfigured names a folder that cannot be written."""
    path = folder / f"{number}.pdf"
    draft = folder / f".{number}.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(path)
    except PermissionError as exc:
        raise Misconfigured(
            f"{folder}: {exc.strerror}; make it writable, or set invoices.folder to a folder that is"
        ) from exc
    except OSError as exc:
        raise ResourceExhausted(f"{path}: {exc.strerror or exc}") from exc
    finally:
        draft.unlink(missing_ok=True)
    return path


def raise_if_failed(report: GenerationReport) -> None:
    """Raise for a sweep of which orders failed, so that the run fails and its dead letter says why."""
    if report.failed:
        order_id, why = next(iter(report.failed.items()))
        raise BacklineError(f"{len(report.failed)} orders have no invoice; the first is {order_id}: {why}")
