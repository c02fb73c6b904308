"""A paper: an invoice or a credit note with all that its PDF says, as it is stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from backline.db.connect import Session
from backline.db.statements import statement
from backline.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Line:
    """One line; amounts in the currency's smallest unit, `tax_rate` in basis points."""

    description: str
    quantity: int
    unit_price_minor: int
    tax_rate: int
    net_minor: int
    tax_minor: int


@dataclass(frozen=True, slots=True)
class TaxLine:
    """The tax of all lines of one rate: the sum of their taxes, each of which was rounded by itself."""

    rate: int
    net_minor: int
    tax_minor: int


@dataclass(frozen=True, slots=True)
class Document:
    """What is on it. Days are those of its `zone`."""

    id: int
    number: str
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
    credits_number: str | None
    credits_issued_at: datetime | None
    seller: dict[str, Any]
    page_size: str
    zone: str
    layout: int
    pdf_sha256: bytes | None
    lines: tuple[Line, ...]

    def local_date(self, moment: datetime) -> date:
        """The day of a moment, in the zone of the paper."""
        return moment.astimezone(ZoneInfo(self.zone)).date()


def load_document(connection: Session, invoice_id: int) -> Document:
    """A paper by its invoice's id. InvalidInput if there is none, or its lines do not add up to its sums."""
    values = {"invoice_id": invoice_id}
    row = connection.execute(statement("invoices", "document_get"), values).fetchone()
    if row is None:
        raise InvalidInput("invoice_id", f"there is no invoice {invoice_id}")
    lines = tuple(Line(**line) for line in connection.execute(statement("invoices", "document_lines"), values))
    sums = (sum(line.net_minor for line in lines), sum(line.tax_minor for line in lines))
    number = format_number(row.pop("series"), row.pop("number"))
    if sums != (row["net_minor"], row["tax_minor"]):
        raise InvalidInput(
            "invoice_id", f"invoice {number}: its net and tax are not the sums of its lines; mend its rows"
        )
    series, credited = row.pop("credits_series"), row.pop("credits_number")
    return Document(
        **row, number=number, credits_number=format_number(series, credited) if series else None, lines=lines
    )


def format_number(series: str, number: int) -> str:
    """A number as people write it: INV-2026-000042."""
    return f"{series}-{number:06d}"


def tax_lines(lines: Iterable[Line]) -> list[TaxLine]:
    """Net and tax by rate, the lowest first. The taxes are summed as rounded: they add up to the invoice's, always."""
    by_rate: dict[int, tuple[int, int]] = {}
    for line in lines:
        net, tax = by_rate.get(line.tax_rate, (0, 0))
        by_rate[line.tax_rate] = (net + line.net_minor, tax + line.tax_minor)
    return [TaxLine(rate, *by_rate[rate]) for rate in sorted(by_rate)]
