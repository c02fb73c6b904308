# ruff: noqa: INP001
"""Draws the invoice and the reconciliation report of docs/img with the code that generates them; needs Debian's poppler-utils.

PYTHONPATH=plugins .venv/bin/python docs/draw_documents.py
"""

from __future__ import annotations

import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backline.invoices.documents import CURRENT_LAYOUT, Document, Line, render_document_pdf
from backline.reconciliation.discrepancies import Discrepancy, DiscrepancyKind
from backline.reconciliation.report import Findings, write_pdf

IMAGE_FOLDER = Path(__file__).parent / "img"
DAY = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def draw_invoice() -> bytes:
    """An invoice of three lines at two tax rates, for a buyer in Germany."""
    lines = (
        _invoice_line("Espresso cups, set of two", 2, 2450, 1900),
        _invoice_line("Coffee beans, 1 kg", 3, 1690, 700),
        _invoice_line("Shipping", 1, 490, 0),
    )
    return render_document_pdf(
        Document(
            id=1, number="INV-2026-000042", is_credit_note=False, currency="EUR", net_minor=sum(one.net_minor for one in lines),
            tax_minor=sum(one.tax_minor for one in lines), total_minor=sum(one.net_minor + one.tax_minor for one in lines),
            language="en", buyer_name="Ann", buyer_email="ann@example.com", buyer_country="DE", buyer_zone="Europe/Berlin",
            issued_at=DAY, order_id=1042, order_number="1042", paid_at=DAY - timedelta(minutes=1), refunded_at=None,
            credits_number=None, credits_issued_at=None,
            seller={
                "name": "Cup & Saucer GmbH", "address": ["1 High Street", "10115 Berlin", "Germany"], "tax_id": "DE123456789",
                "email": "billing@shop.example",
            },
            page_size="A4", zone="Europe/Berlin", layout=CURRENT_LAYOUT, pdf_sha256=None, lines=lines,
        )
    )  # fmt: skip


def draw_reconciliation(path: Path) -> None:
    """A report of which some discrepancies were fixed, and some remain."""
    findings = Findings("stripe", DAY - timedelta(days=1), DAY, provider_count=18_204, local_count=18_197)
    found = (
        (DiscrepancyKind.STATUS, 9, True, "pending", "captured"), (DiscrepancyKind.STATUS, 2, False, "captured", "failed"),
        (DiscrepancyKind.MISSING_HERE, 4, False, "no such payment", "captured"), (DiscrepancyKind.MISSING_THERE, 3, False, "captured", "no such payment"),
        (DiscrepancyKind.AMOUNT, 2, False, "5831", "5831, 1000 refunded"), (DiscrepancyKind.DUPLICATE, 1, False, "paid by another", "also captured"),
    )  # fmt: skip
    number = 0
    for kind, count, is_fixed, local, provider in found:
        for _ in range(count):
            number += 1
            one = Discrepancy(kind, f"pi_3Q{number:08d}", number, 1040 + number, 5831, "EUR", DAY, local, provider)
            findings.add(one, is_fixed=is_fixed)
    write_pdf(findings, path)


def _invoice_line(description: str, quantity: int, price: int, rate: int) -> Line:
    net = quantity * price
    return Line(description, quantity, price, rate, net, (net * rate + 5000) // 10_000)


def main() -> None:
    """Write both as PNG files."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "invoice.pdf").write_bytes(draw_invoice())
        draw_reconciliation(Path(folder) / "reconciliation.pdf")
        for name in ("invoice", "reconciliation"):
            command = ["pdftoppm", "-png", "-singlefile", "-r", "80", f"{folder}/{name}.pdf", str(IMAGE_FOLDER / name)]
            subprocess.run(command, check=True)  # noqa: S603 - paths of our own


if __name__ == "__main__":
    main()
