"""Numbers without gaps, whoever asks and however many at once; papers that can be made again."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from pypdf import PdfReader

from backline.db.connect import translate_errors
from backline.errors import InvalidInput
from backline.invoices.generate import (
    GeneratedDocument,
    GenerationReport,
    generate_due,
    generate_for_order,
    raise_if_failed,
)
from backline.invoices.issuing import issue
from backline.invoices.layout import render_pdf
from backline.invoices.papers import load_document
from backline.invoices.settings import InvoiceSettings
from backline.messages import registry
from backline.reference_app import invariant_violations
from backline.settings import ROOT
from tests.integration.invoices.support import CONFIG, place_order, refund_order

NOW = datetime(2031, 6, 1, tzinfo=UTC)
CUPS = [("Espresso cups, set of 4", 2, 2450, 1900), ("Coffee beans, 1 kg", 3, 1890, 700)]


@pytest.fixture
def shop(seeded_database: str) -> Iterator[psycopg.Connection[DictRow]]:
    with psycopg.connect(seeded_database, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("UPDATE app.users SET language = 'en' WHERE id = 1")
        yield connection


def numbers(connection: psycopg.Connection[DictRow], series: str) -> list[int]:
    rows = connection.execute("SELECT number FROM app.invoices WHERE series = %s ORDER BY id", [series])
    return [row["number"] for row in rows]


def text_of(file: str | Path | bytes) -> str:
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    return "\n".join(page.extract_text() for page in PdfReader(source).pages).replace("\xa0", " ")


def test_numbers_have_no_gaps_under_concurrency_and_rollbacks(
    seeded_database: str, shop: psycopg.Connection[DictRow]
) -> None:
    orders = [place_order(shop, f"C-{n}", CUPS) for n in range(24)]

    def work(n: int) -> None:
        with translate_errors(), psycopg.connect(seeded_database, autocommit=True, row_factory=dict_row) as own:
            if n % 3 == 2:  # begins, takes its number, and comes to nothing
                with own.transaction(force_rollback=True):
                    issue(own, orders[n // 3], CONFIG, "UTC", NOW)
            else:
                issue(own, orders[(n // 3 * 2 + n % 3) % 24], CONFIG, "UTC", NOW)  # each twice

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(72)))
    issued = numbers(shop, "INV-2031")
    assert sorted(issued) == list(range(1, len(issued) + 1))
    [row] = shop.execute(
        "SELECT count(*) AS n, count(DISTINCT order_id) AS orders FROM app.invoices WHERE order_id = ANY (%s)", [orders]
    ).fetchall()
    assert row["n"] == row["orders"] == len(issued) == 24
    broken = invariant_violations(seeded_database)
    assert {rule for rule in broken if "invoice" in rule} == set()


def test_an_order_that_is_not_paid_has_no_invoice(shop: psycopg.Connection[DictRow]) -> None:
    order = place_order(shop, "U-1", CUPS, paid=False)
    with pytest.raises(InvalidInput, match=rf"order_id: order {order} is not paid"):
        issue(shop, order, CONFIG, "UTC", NOW)
    with pytest.raises(InvalidInput, match="order_id: there is no order 987654"):
        issue(shop, 987654, CONFIG, "UTC", NOW)
    assert numbers(shop, "INV-2031") == []


def test_the_year_is_that_of_the_zone(shop: psycopg.Connection[DictRow]) -> None:
    order = place_order(shop, "Y-1", CUPS)
    [paper] = issue(shop, order, CONFIG, "Asia/Tokyo", datetime(2031, 12, 31, 20, tzinfo=UTC))
    assert load_document(shop, paper).number == "INV-2032-000001"


def test_what_the_paper_says(shop: psycopg.Connection[DictRow], tmp_path: Path) -> None:
    shop.execute("UPDATE app.users SET language = 'de', name = 'Ann <b>Example</b>' WHERE id = 1")
    order = place_order(shop, "P-1", CUPS)
    [made] = generate_for_order(shop, order, CONFIG, tmp_path)
    text = text_of(made.file)
    # 2 of 24.50 at 19 % are 49.00 + 9.31; 3 of 18.90 at 7 % are 56.70 + 3.97; shipping 4.90 without.
    for said in (
        "Rechnung", made.number, "P-1", "Cup & Saucer GmbH", "USt-IdNr. DE123456789", "Ann <b>Example</b>", "Deutschland",
        "24,50 €", "49,00 €", "56,70 €", "Versand", "110,60 €", "USt. 19 % auf 49,00 €", "9,31 €", "USt. 7 % auf 56,70 €",
        "3,97 €", "123,88 €",
    ):  # fmt: skip
        assert said in text, (said, text)


@pytest.mark.parametrize(
    ("country", "page", "points"), [("DE", "auto", (595, 842)), ("US", "auto", (612, 792)), ("US", "A4", (595, 842))]
)
def test_the_page_is_what_is_customary(
    country: str, page: str, points: tuple[int, int], shop: psycopg.Connection[DictRow], tmp_path: Path
) -> None:
    order = place_order(shop, "S-1", CUPS, country=country, currency="USD")
    [made] = generate_for_order(shop, order, CONFIG.model_copy(update={"page": page}), tmp_path)
    box = PdfReader(made.file).pages[0].mediabox
    assert (round(box.width), round(box.height)) == points


def test_it_is_pdf_a_3a(shop: psycopg.Connection[DictRow], tmp_path: Path) -> None:
    [made] = generate_for_order(shop, place_order(shop, "A-1", CUPS), CONFIG, tmp_path)
    pdf = PdfReader(made.file)
    catalog = pdf.trailer["/Root"].get_object()
    metadata = catalog["/Metadata"].get_object().get_data().decode()
    assert 'part="3"' in metadata
    assert "<pdfaid:conformance>A<" in metadata or 'conformance="A"' in metadata
    assert "/OutputIntents" in catalog
    assert "/StructTreeRoot" in catalog
    assert str(catalog["/Lang"]).startswith("en")
    fonts = [font.get_object() for font in pdf.pages[0]["/Resources"]["/Font"].values()]
    assert fonts
    for font in fonts:
        [inner] = font["/DescendantFonts"]
        descriptor = inner.get_object()["/FontDescriptor"].get_object()
        assert {"/FontFile2", "/FontFile3"} & set(descriptor)


def test_a_paper_is_made_again_byte_for_byte(
    seeded_database: str, shop: psycopg.Connection[DictRow], tmp_path: Path
) -> None:
    order = place_order(shop, "R-1", CUPS)
    [first] = generate_for_order(shop, order, CONFIG, tmp_path)
    content = Path(first.file).read_bytes()
    assert first.is_identical is None
    # Another process, other settings, another day: the paper is as it was.
    code = (
        "import sys, psycopg, hashlib\nfrom psycopg.rows import dict_row\nfrom backline.invoices.layout import render\n"
        "from backline.invoices.papers import read\n"
        "with psycopg.connect(sys.argv[1], row_factory=dict_row) as c:\n"
        "    row = c.execute('SELECT id FROM app.invoices WHERE order_id = %s', [sys.argv[2]]).fetchone()\n"
        "    print(hashlib.sha256(render(read(c, row['id']))).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, seeded_database, str(order)], check=True, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT / "plugins"), "BACKLINE__INVOICES__SELLER_NAME": "Somebody Else",
             "TZ": "Asia/Tokyo", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.strip() == hashlib.sha256(content).hexdigest()
    other = CONFIG.model_copy(update={"seller_name": "Somebody Else", "page": "Letter"})
    [again] = generate_for_order(shop, order, other, tmp_path / "again")
    assert again.is_identical is True
    assert Path(again.file).read_bytes() == content
    shop.execute("UPDATE app.invoices SET buyer_name = 'Forged' WHERE order_id = %s", [order])
    [forged] = generate_for_order(shop, order, CONFIG, tmp_path)
    assert forged.is_identical is False


def test_a_refund_makes_a_credit_note_of_the_whole_invoice(
    seeded_database: str, shop: psycopg.Connection[DictRow], tmp_path: Path
) -> None:
    order = place_order(shop, "G-1", CUPS)
    [invoice] = generate_for_order(shop, order, CONFIG, tmp_path)
    refund_order(shop, order)
    again, note = generate_for_order(shop, order, CONFIG, tmp_path)
    assert again.number == invoice.number
    assert note.number.startswith("CRN-")
    assert note.receipt_id is None
    text = text_of(note.file)
    for said in ("Credit note", f"Takes back invoice {invoice.number}", "€123.88", "Total credited"):
        assert said in text, (said, text)
    assert {rule for rule in invariant_violations(seeded_database) if "invoice" in rule} == set()
    assert len(generate_for_order(shop, order, CONFIG, tmp_path)) == 2


def test_the_first_file_goes_out_with_the_receipt_once(shop: psycopg.Connection[DictRow], tmp_path: Path) -> None:
    order = place_order(shop, "M-1", CUPS)
    [made] = generate_for_order(shop, order, CONFIG, tmp_path)
    [again] = generate_for_order(shop, order, CONFIG, tmp_path)
    assert (made.receipt_id is not None, again.receipt_id) == (True, None)
    [row] = shop.execute("SELECT * FROM backline.message WHERE type = 'payment_receipt'").fetchall()
    assert row["id"] == made.receipt_id
    assert row["payload"]["receipt"] == made.number
    # As it will be sent: the message's own model takes it, and the file is the invoice.
    message = registry.get("payment_receipt")(**row["payload"])
    [attachment] = message.email().attachments
    assert attachment.content == Path(made.file).read_bytes()


def test_an_old_payment_gets_no_receipt(shop: psycopg.Connection[DictRow], tmp_path: Path) -> None:
    order = place_order(shop, "O-1", CUPS)
    [made] = generate_for_order(shop, order, CONFIG.model_copy(update={"receipt_hours": 0.0}), tmp_path)
    assert made.receipt_id is None
    assert shop.execute("SELECT count(*) AS n FROM backline.message").fetchall() == [{"n": 0}]


def test_the_sweep_makes_what_is_missing_and_one_that_fails_harms_no_other(
    shop: psycopg.Connection[DictRow], tmp_path: Path
) -> None:
    first, poisoned, third = (place_order(shop, f"W-{n}", CUPS) for n in range(3))
    issue(shop, first, CONFIG, "UTC", datetime.now(UTC))  # and then somebody pulled the plug
    issue(shop, poisoned, CONFIG, "UTC", datetime.now(UTC))
    shop.execute("UPDATE app.invoices SET net_minor = net_minor + 1 WHERE order_id = %s", [poisoned])
    told: list[float] = []
    report = generate_due(shop, CONFIG, tmp_path, lambda percent, _: told.append(percent))
    assert {one.order_id for one in report.generated} == {first, third}
    assert (report.orders, report.documents, report.receipts) == (3, 2, 2)
    assert "are not the sums of its lines" in report.failed[poisoned]
    assert told[0] == 0
    with pytest.raises(Exception, match=f"1 orders have no invoice; the first is {poisoned}"):
        raise_if_failed(report)
    json.dumps(report.as_dict())
    assert generate_due(shop, CONFIG, tmp_path).orders == 1


def test_the_sweep_is_bounded(shop: psycopg.Connection[DictRow], tmp_path: Path) -> None:
    orders = [place_order(shop, f"B-{n}", CUPS) for n in range(3)]
    report = generate_due(shop, CONFIG.model_copy(update={"sweep_most": 2}), tmp_path)
    assert [one.order_id for one in report.generated] == orders[:2]


def test_a_folder_that_cannot_be_written_is_named_and_loses_nothing(
    shop: psycopg.Connection[DictRow], tmp_path: Path
) -> None:
    order = place_order(shop, "F-1", CUPS)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(Exception, match="file"):
        generate_for_order(shop, order, CONFIG, blocked)
    assert shop.execute("SELECT count(*) AS n FROM backline.message").fetchall() == [{"n": 0}]
    [made] = generate_for_order(shop, order, CONFIG, tmp_path)
    assert made.receipt_id is not None


def test_an_invoice_that_was_issued_elsewhere_gets_its_paper(shop: psycopg.Connection[DictRow], tmp_path: Path) -> None:
    [row] = shop.execute("SELECT order_id, series, number FROM app.invoices WHERE kind = 'invoice' ORDER BY id LIMIT 1")
    made = generate_for_order(shop, row["order_id"], CONFIG, tmp_path)
    assert made[0].number == f"{row['series']}-{row['number']:06d}"
    assert made[0].number in text_of(made[0].file)


def test_a_long_invoice_has_pages_with_its_number(shop: psycopg.Connection[DictRow]) -> None:
    lines = [
        (f"Part {n}, with a description that goes on for a while and then some more", n, 100 + n, 1900)
        for n in range(1, 80)
    ]
    [paper] = issue(shop, place_order(shop, "L-1", lines), CONFIG, "UTC", NOW)
    pdf = PdfReader(io.BytesIO(render_pdf(load_document(shop, paper))))
    assert len(pdf.pages) >= 3
    assert all("INV-2031-000001" in page.extract_text() for page in pdf.pages)


def test_a_report_of_nothing_is_well() -> None:
    raise_if_failed(GenerationReport(generated=[GeneratedDocument("N", 1, "f", None, None)]))


@pytest.mark.parametrize("series", ["inv-{year}", "INV {year}", "{year}{year}", "INV-{month}", ""])
def test_a_series_that_cannot_be_is_refused(series: str) -> None:
    with pytest.raises(ValueError, match="series"):
        InvoiceSettings(series=series)


def test_a_layout_that_is_gone_is_named(shop: psycopg.Connection[DictRow]) -> None:
    [paper] = issue(shop, place_order(shop, "X-1", CUPS), CONFIG, "UTC", NOW)
    shop.execute("UPDATE app.invoice_documents SET layout = 99 WHERE invoice_id = %s", [paper])
    with pytest.raises(InvalidInput, match=r"layout: .*layout_99\.html is not there"):
        render_pdf(load_document(shop, paper))
