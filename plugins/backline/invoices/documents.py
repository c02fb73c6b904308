"""Documents: stored invoices and credit notes, and their PDF/A-3a files (ISO 19005-3, tagged).

A PDF depends on stored rows alone, not on the clock, the settings or the network, so the same document gives the same
bytes. `layout_1.html` is never changed: a new look is `layout_2.html`, and `CURRENT_LAYOUT` is the layout of new documents.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import date, datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from backline.db.connect import Session, fetch, fetch_one
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.rendering.html import create_html_environment, render_pdf
from backline.rendering.settings import TemplateSettings
from backline.settings import ROOT, settings

CURRENT_LAYOUT = 1
TEMPLATE_FOLDER = ROOT / "include" / "templates" / "invoices"
PDF_VARIANT = "pdf/a-3a"


@dataclass(frozen=True, slots=True)
class Line:
    """One line; amounts in the currency's minor unit, `tax_rate` in basis points."""

    description: str
    quantity: int
    unit_price_minor: int
    tax_rate: int
    net_minor: int
    tax_minor: int


@dataclass(frozen=True, slots=True)
class TaxLine:
    """The tax at one rate: the sum of the lines' taxes, each rounded on its line."""

    rate: int
    net_minor: int
    tax_minor: int


@dataclass(frozen=True, slots=True)
class _Contents:
    id: int
    is_credit_note: bool
    currency: str
    net_minor: int
    tax_minor: int
    total_minor: int
    language: str
    buyer_name: str
    buyer_email: str
    buyer_country: str
    buyer_zone: str
    issued_at: datetime
    order_id: int
    order_number: str
    paid_at: datetime
    refunded_at: datetime | None
    credits_issued_at: datetime | None
    seller: dict[str, Any]
    page_size: str
    zone: str
    layout: int
    pdf_sha256: bytes | None


@dataclass(frozen=True, slots=True)
class _StoredDocument(_Contents):
    series: str
    number: int
    credits_series: str | None
    credits_number: int | None


@dataclass(frozen=True, slots=True)
class Document(_Contents):
    """An invoice or credit note with everything that its PDF shows. Dates are local to `zone`."""

    number: str
    credits_number: str | None
    lines: tuple[Line, ...]

    def local_date(self, moment: datetime) -> date:
        """The date of a moment in the document's zone."""
        return moment.astimezone(ZoneInfo(self.zone)).date()


def load_document(connection: Session, invoice_id: int) -> Document:
    """Load a document by its invoice's id. InvalidInput if none exists, or its totals are not the sums of its lines."""
    values = {"invoice_id": invoice_id}
    stored = fetch_one(connection, statement("invoices", "document_get"), _StoredDocument, values)
    if stored is None:
        raise InvalidInput("invoice_id", f"there is no invoice {invoice_id}")
    lines = tuple(fetch(connection, statement("invoices", "document_lines"), Line, values))
    number, credited = format_number(stored.series, stored.number), None
    if stored.credits_series is not None and stored.credits_number is not None:
        credited = format_number(stored.credits_series, stored.credits_number)
    sums = sum(line.net_minor for line in lines), sum(line.tax_minor for line in lines)
    if sums != (stored.net_minor, stored.tax_minor):
        raise InvalidInput(
            "invoice_id", f"invoice {number}: its totals are not the sums of its lines; correct its rows"
        )
    contents = {each.name: getattr(stored, each.name) for each in fields(_Contents)}
    return Document(**contents, number=number, credits_number=credited, lines=lines)


def format_number(series: str, number: int) -> str:
    """An invoice number as printed: INV-2026-000042."""
    return f"{series}-{number:06d}"


def tax_lines(lines: Iterable[Line]) -> list[TaxLine]:
    """Net and tax by rate, lowest rate first. Sums of rounded taxes, so they always add up to the invoice's tax."""
    by_rate: dict[int, tuple[int, int]] = {}
    for line in lines:
        net, tax = by_rate.get(line.tax_rate, (0, 0))
        by_rate[line.tax_rate] = (net + line.net_minor, tax + line.tax_minor)
    return [TaxLine(rate, *by_rate[rate]) for rate in sorted(by_rate)]


def render_document_pdf(document: Document) -> bytes:
    """Render the PDF. InvalidInput if the template of its layout is missing."""
    template = TEMPLATE_FOLDER / f"layout_{document.layout}.html"
    if not template.exists():
        raise InvalidInput("layout", f"{template} is missing; restore it: documents of that layout need it")
    html = create_html_environment(TEMPLATE_FOLDER).get_template(template.name).render(
        document=document, taxes=tax_lines(document.lines), labels=labels(document.language), locale=document.language
    )  # fmt: skip
    return render_pdf(html, PDF_VARIANT)


def labels(language: str) -> dict[str, str]:
    """A document's labels in a language, else in that language without its country, else in `templates.language`."""
    known = _all_labels()
    for tag in (language, language.partition("-")[0], settings().section(TemplateSettings).language):
        if tag in known:
            return known[tag]
    return known["en"]


@cache
def _all_labels() -> dict[str, dict[str, str]]:
    return tomllib.loads((TEMPLATE_FOLDER / "labels.toml").read_text(encoding="utf-8"))
