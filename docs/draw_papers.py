# ruff: noqa: INP001
"""Draws the papers of docs/img, an invoice and a reconciliation, by the code that makes them; needs Debian's poppler-utils.

PYTHONPATH=plugins .venv/bin/python docs/draw_papers.py
"""

from __future__ import annotations

import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backline.invoices.layout import LAYOUT, render
from backline.invoices.papers import Line, Paper
from backline.reconciliation.differences import Difference, Kind
from backline.reconciliation.report import Findings, write_pdf

IMAGES = Path(__file__).parent / "img"
DAY = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def invoice() -> bytes:
    """Three lines at two rates, to a buyer in Germany."""
    lines = (
        _line("Espresso cups, set of two", 2, 2450, 1900),
        _line("Coffee beans, 1 kg", 3, 1690, 700),
        _line("Shipping", 1, 490, 0),
    )
    return render(
        Paper(
            id=1, number="INV-2026-000042", is_credit_note=False, currency="EUR", net_minor=sum(one.net_minor for one in lines),
            tax_minor=sum(one.tax_minor for one in lines), total_minor=sum(one.net_minor + one.tax_minor for one in lines),
            language="en", buyer_name="Ann", buyer_email="ann@example.com", buyer_country="DE", buyer_zone="Europe/Berlin",
            issued_at=DAY, order_id=1042, order_number="1042", paid_at=DAY - timedelta(minutes=1), refunded_at=None,
            credits_number=None, credits_issued_at=None,
            seller={
                "name": "Cup & Saucer GmbH", "address": ["1 High Street", "10115 Berlin", "Germany"], "tax_id": "DE123456789",
                "email": "billing@shop.example",
            },
            page="A4", zone="Europe/Berlin", layout=LAYOUT, pdf_sha256=None, lines=lines,
        )
    )  # fmt: skip


def reconciliation(path: Path) -> None:
    """A night after which some differences were mended, and some are left."""
    findings = Findings("stripe", DAY - timedelta(days=1), DAY, theirs=18_204, ours=18_197)
    found = (
        (Kind.STATUS, 9, True, "pending", "captured"), (Kind.STATUS, 2, False, "captured", "failed"),
        (Kind.MISSING_HERE, 4, False, "no such payment", "captured"), (Kind.MISSING_THERE, 3, False, "captured", "no such payment"),
        (Kind.AMOUNT, 2, False, "5831", "5831, 1000 refunded"), (Kind.DUPLICATE, 1, False, "paid by another", "taken too"),
    )  # fmt: skip
    number = 0
    for kind, count, is_mended, ours, theirs in found:
        for _ in range(count):
            number += 1
            one = Difference(kind, f"pi_3Q{number:08d}", number, 1040 + number, 5831, "EUR", DAY, ours, theirs)
            findings.add(one, is_mended=is_mended)
    write_pdf(findings, path)


def _line(description: str, quantity: int, price: int, rate: int) -> Line:
    net = quantity * price
    return Line(description, quantity, price, rate, net, (net * rate + 5000) // 10_000)


def main() -> None:
    """Write both as PNG."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "invoice.pdf").write_bytes(invoice())
        reconciliation(Path(folder) / "reconciliation.pdf")
        for name in ("invoice", "reconciliation"):
            command = ["pdftoppm", "-png", "-singlefile", "-r", "80", f"{folder}/{name}.pdf", str(IMAGES / name)]
            subprocess.run(command, check=True)  # noqa: S603 - paths of our own


if __name__ == "__main__":
    main()
