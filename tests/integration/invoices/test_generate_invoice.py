"""Invoice numbers without gaps under concurrency, and documents that can be generated again."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo
from pypdf import PdfReader
from pypdf.generic import DictionaryObject, PdfObject, StreamObject

from backline.db.connect import session
from backline.errors import InvalidInput, Misconfigured
from backline.invoices.documents import load_document, render_document_pdf
from backline.invoices.generate_invoice import GeneratedDocument, generate_for_order, generate_invoice, issue
from backline.invoices.settings import InvoiceSettings
from backline.messages import registry
from backline.messages.base import EmailMessage
from backline.settings import ROOT
from tests.integration.job_factory import create_job
from tests.integration.shop import Line, Shop

NOW = datetime(2031, 6, 1, tzinfo=UTC)
CUPS = (Line(2, 2450, 1900, "Espresso cups, set of 4"), Line(3, 1890, 700, "Coffee beans, 1 kg"))


@pytest.fixture
def config(tmp_path: Path) -> InvoiceSettings:
    return InvoiceSettings(
        seller_name="Cup & Saucer GmbH", seller_tax_id="DE123456789", folder=str(tmp_path / "invoices")
    )


def paid_order(shop: Shop, **columns: Any) -> int:
    return shop.order(*CUPS, state="paid", **{"shipping_minor": 490, **columns})


def generate(shop: Shop, order: int, config: InvoiceSettings, **changed: Any) -> list[GeneratedDocument]:
    return generate_for_order(shop.database, order, config.model_copy(update=changed), datetime.now(UTC))


def dictionary(found: PdfObject) -> DictionaryObject:
    assert isinstance(found, DictionaryObject)
    return found


def numbers(shop: Shop, series: str) -> list[int]:
    return [
        row["number"] for row in shop.execute("SELECT number FROM app.invoices WHERE series = %s ORDER BY id", series)
    ]


def text_of(file: str | Path | bytes) -> str:
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    return "\n".join(page.extract_text() for page in PdfReader(source).pages).replace("\xa0", " ")


def test_numbers_have_no_gaps_under_concurrency_and_rollbacks(
    database: str, shop: Shop, config: InvoiceSettings
) -> None:
    orders = [paid_order(shop) for _ in range(24)]

    def work(n: int) -> None:
        with session(database, name="concurrent") as own:
            if n % 3 == 2:  # takes its number and rolls back
                with own.transaction(force_rollback=True):
                    issue(own, orders[n // 3], config, "UTC", NOW)
            else:
                issue(own, orders[(n // 3 * 2 + n % 3) % 24], config, "UTC", NOW)  # each twice

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(72)))
    issued = numbers(shop, "INV-2031")
    assert sorted(issued) == list(range(1, len(issued) + 1))
    row = shop.fetch_one("SELECT count(*) AS n, count(DISTINCT order_id) AS orders FROM app.invoices")
    assert row["n"] == row["orders"] == len(issued) == 24
    assert shop.invariant_violations(invoices=True) == {}


def test_an_order_that_is_not_paid_has_no_invoice(shop: Shop, config: InvoiceSettings) -> None:
    order = shop.order(*CUPS)
    with pytest.raises(InvalidInput, match=rf"order_id: order {order} is not paid"):
        issue(shop.database, order, config, "UTC", NOW)
    with pytest.raises(InvalidInput, match="order_id: there is no order 987654"):
        issue(shop.database, 987654, config, "UTC", NOW)
    assert numbers(shop, "INV-2031") == []


def test_the_year_is_that_of_the_time_zone(shop: Shop, config: InvoiceSettings) -> None:
    late = datetime(2031, 12, 31, 20, tzinfo=UTC)
    [invoice] = issue(shop.database, paid_order(shop), config, "Asia/Tokyo", late)
    assert load_document(shop.database, invoice).number == "INV-2032-000001"


def test_the_pdf_shows_the_whole_invoice(shop: Shop, config: InvoiceSettings) -> None:
    customer = shop.customer(language="de", name="Ann <b>Example</b>")
    [document] = generate(shop, paid_order(shop, customer=customer, number="P-1"), config)
    text = text_of(document.file)
    # 2 of 24.50 at 19 % are 49.00 + 9.31; 3 of 18.90 at 7 % are 56.70 + 3.97; shipping is 4.90 without tax.
    for expected in (
        "Rechnung", document.number, "P-1", "Cup & Saucer GmbH", "USt-IdNr. DE123456789", "Ann <b>Example</b>", "Deutschland",
        "24,50 €", "49,00 €", "56,70 €", "Versand", "110,60 €", "USt. 19 % auf 49,00 €", "9,31 €", "USt. 7 % auf 56,70 €",
        "3,97 €", "123,88 €",
    ):  # fmt: skip
        assert expected in text, (expected, text)


@pytest.mark.parametrize(
    ("country", "page_size", "points"),
    [("DE", "auto", (595, 842)), ("US", "auto", (612, 792)), ("US", "A4", (595, 842))],
)
def test_the_page_size_is_that_of_the_country(
    country: str, page_size: str, points: tuple[int, int], shop: Shop, config: InvoiceSettings
) -> None:
    order = paid_order(shop, ship_to_country=country, currency="USD")
    [document] = generate(shop, order, config, page_size=page_size)
    box = PdfReader(document.file).pages[0].mediabox
    assert (round(box.width), round(box.height)) == points


def test_the_file_is_pdf_a_3a(shop: Shop, config: InvoiceSettings) -> None:
    [document] = generate(shop, paid_order(shop), config)
    pdf = PdfReader(document.file)
    catalog = dictionary(pdf.trailer["/Root"])
    stream = catalog["/Metadata"]
    assert isinstance(stream, StreamObject)
    metadata = stream.get_data().decode()
    assert 'part="3"' in metadata
    assert "<pdfaid:conformance>A<" in metadata or 'conformance="A"' in metadata
    assert "/OutputIntents" in catalog
    assert "/StructTreeRoot" in catalog
    assert str(catalog["/Lang"]).startswith("en")
    fonts = [font.get_object() for font in dictionary(dictionary(pdf.pages[0]["/Resources"])["/Font"]).values()]
    assert fonts
    for font in fonts:
        [inner] = font["/DescendantFonts"]
        descriptor = inner.get_object()["/FontDescriptor"].get_object()
        assert {"/FontFile2", "/FontFile3"} & set(descriptor)


def test_a_document_is_generated_again_byte_for_byte(database: str, shop: Shop, config: InvoiceSettings) -> None:
    order = paid_order(shop)
    [first] = generate(shop, order, config)
    content = Path(first.file).read_bytes()
    assert first.is_identical is None
    # Another process with other settings and another time zone renders the same bytes.
    code = (
        "import sys, psycopg, hashlib\nfrom psycopg.rows import dict_row\n"
        "from backline.invoices.documents import load_document, render_document_pdf\n"
        "with psycopg.connect(sys.argv[1], row_factory=dict_row) as c:\n"
        "    row = c.execute('SELECT id FROM app.invoices WHERE order_id = %s', [sys.argv[2]]).fetchone()\n"
        "    print(hashlib.sha256(render_document_pdf(load_document(c, row['id']))).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, database, str(order)], check=True, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT / "plugins"), "BACKLINE__INVOICES__SELLER_NAME": "Another Seller",
             "TZ": "Asia/Tokyo", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.strip() == hashlib.sha256(content).hexdigest()
    [again] = generate(
        shop, order, config, seller_name="Another Seller", page_size="Letter", folder=f"{config.folder}/again"
    )
    assert again.is_identical is True
    assert Path(again.file).read_bytes() == content
    shop.execute("UPDATE app.invoices SET buyer_name = 'Forged' WHERE order_id = %s", order)
    [forged] = generate(shop, order, config)
    assert forged.is_identical is False


def test_a_refund_creates_a_credit_note_for_the_whole_invoice(shop: Shop, config: InvoiceSettings) -> None:
    order = paid_order(shop)
    [invoice] = generate(shop, order, config)
    shop.refund(order)
    again, note = generate(shop, order, config)
    assert again.number == invoice.number
    assert note.number.startswith("CRN-")
    assert note.receipt_id is None
    text = text_of(note.file)
    for expected in ("Credit note", f"Cancels invoice {invoice.number}", "€123.88", "Total credited"):
        assert expected in text, (expected, text)
    assert shop.invariant_violations(invoices=True) == {}
    assert len(generate(shop, order, config)) == 2


def test_the_first_file_is_sent_with_the_receipt_once(shop: Shop, config: InvoiceSettings) -> None:
    order = paid_order(shop)
    [first] = generate(shop, order, config)
    [again] = generate(shop, order, config)
    assert (first.receipt_id is not None, again.receipt_id) == (True, None)
    [row] = shop.messages("payment_receipt")
    assert row["id"] == first.receipt_id
    assert row["payload"]["receipt"] == first.number
    # The message's model accepts it, and the attachment is the invoice.
    message = registry.get("payment_receipt")(**row["payload"])
    assert isinstance(message, EmailMessage)
    [attachment] = message.email().attachments
    assert attachment.content == Path(first.file).read_bytes()


def test_an_old_payment_gets_no_receipt(shop: Shop, config: InvoiceSettings) -> None:
    order = paid_order(shop)
    shop.backdate(order, 73)
    [document] = generate(shop, order, config)
    [without] = generate(shop, paid_order(shop), config, receipt_max_age_hours=0.0)
    assert (document.receipt_id, without.receipt_id) == (None, None)
    assert shop.messages() == []


def run(dsn: str, config: InvoiceSettings, **params: Any) -> dict[str, Any]:
    returned: dict[str, Any] = create_job(dsn, config, params=params).execute(generate_invoice)
    return returned


def test_a_run_generates_what_is_missing_and_a_failing_order_affects_only_itself(
    database: str, shop: Shop, config: InvoiceSettings
) -> None:
    first, broken, third = (paid_order(shop) for _ in range(3))
    for order in (first, broken):  # as after a crash before the file was written
        issue(shop.database, order, config, "UTC", datetime.now(UTC))
    shop.execute("UPDATE app.invoices SET net_minor = net_minor + 1 WHERE order_id = %s", broken)
    result = run(database, config)
    assert [document["order_id"] for document in result["generated"]] == [first, third]
    assert (result["orders"]["done"], result["orders"]["failed"], result["documents"], result["receipts"]) == (
        2,
        1,
        2,
        2,
    )
    [failure] = result["orders"]["failures"]
    assert failure["key"] == str(broken)
    assert "are not the sums of its lines" in failure["reason"]
    assert shop.fetch_value("SELECT item_key FROM backline.dead_letter") == str(broken)
    again = run(database, config)
    assert (again["orders"]["done"], again["orders"]["skipped"]) == (0, 1)
    # Once corrected, the order is generated on request, which closes its dead letter.
    shop.execute("UPDATE app.invoices SET net_minor = net_minor - 1 WHERE order_id = %s", broken)
    assert run(database, config, order_id=broken)["documents"] == 1
    assert run(database, config)["orders"]["skipped"] == 0


def test_a_run_is_bounded(database: str, shop: Shop, config: InvoiceSettings) -> None:
    orders = [paid_order(shop) for _ in range(3)]
    result = run(database, config.model_copy(update={"batch_limit": 2}))
    assert [document["order_id"] for document in result["generated"]] == orders[:2]
    assert result["orders"]["limit_reached"]
    assert run(database, config)["documents"] == 1


def test_a_requested_order_that_cannot_be_invoiced_fails_the_run(
    database: str, shop: Shop, config: InvoiceSettings
) -> None:
    with pytest.raises(InvalidInput, match="is not paid"):
        run(database, config, order_id=shop.order(*CUPS))


def test_an_unwritable_folder_fails_the_run_and_loses_nothing(
    database: str, shop: Shop, config: InvoiceSettings, tmp_path: Path
) -> None:
    order = paid_order(shop)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(Misconfigured, match=r"/file: File exists; .* invoices\.folder"):
        run(database, config.model_copy(update={"folder": str(blocked)}))
    assert shop.messages() == []
    [document] = generate(shop, order, config)
    assert document.receipt_id is not None


def test_an_invoice_that_was_issued_elsewhere_gets_a_document(
    server: str, seeded_template: str, config: InvoiceSettings
) -> None:
    with session(make_conninfo(server, dbname=seeded_template), name="test") as connection:
        shop = Shop(connection)
        with connection.transaction(force_rollback=True):
            row = shop.fetch_one(
                "SELECT order_id, series, number FROM app.invoices WHERE kind = 'invoice' ORDER BY id LIMIT 1"
            )
            document = generate(shop, row["order_id"], config)[0]
    assert document.number == f"{row['series']}-{row['number']:06d}"
    assert document.number in text_of(document.file)


def test_each_page_of_a_long_invoice_shows_its_number(shop: Shop, config: InvoiceSettings) -> None:
    description = "Part {}, with a description that goes on for a while and then some more"
    lines = [Line(n, 100 + n, 1900, description.format(n)) for n in range(1, 80)]
    [invoice] = issue(shop.database, shop.order(*lines, state="paid"), config, "UTC", NOW)
    pdf = PdfReader(io.BytesIO(render_document_pdf(load_document(shop.database, invoice))))
    assert len(pdf.pages) >= 3
    assert all("INV-2031-000001" in page.extract_text() for page in pdf.pages)


@pytest.mark.parametrize("series", ["inv-{year}", "INV {year}", "{year}{year}", "INV-{month}", ""])
def test_an_invalid_series_is_rejected(series: str) -> None:
    with pytest.raises(ValueError, match="series"):
        InvoiceSettings(series=series)


def test_a_missing_layout_is_named(shop: Shop, config: InvoiceSettings) -> None:
    [invoice] = issue(shop.database, paid_order(shop), config, "UTC", NOW)
    shop.execute("UPDATE app.invoice_documents SET layout = 99 WHERE invoice_id = %s", invoice)
    with pytest.raises(InvalidInput, match=r"layout: .*layout_99\.html is missing"):
        render_document_pdf(load_document(shop.database, invoice))


def test_a_customer_in_a_language_without_formats_gets_an_invoice_like_everybody(
    database: str, shop: Shop, config: InvoiceSettings
) -> None:
    odd, other = shop.customer(), shop.customer()
    shop.execute("UPDATE app.users SET language = 'tet' WHERE id = %s", odd)
    orders = [paid_order(shop, customer=customer) for customer in (odd, other)]
    now = datetime.now(UTC)
    result = create_job(database, config, now=now).execute(generate_invoice)
    assert (result["orders"]["done"], result["orders"]["failed"], result["receipts"]) == (2, 0, 2)
    assert [each["order_id"] for each in result["generated"]] == orders
    assert "Invoice" in text_of(result["generated"][0]["file"])
    for row in shop.messages("payment_receipt"):
        message = registry.get("payment_receipt").parse(row["payload"])
        assert isinstance(message, EmailMessage)
        assert "INV-" in (message.email().text or "")
