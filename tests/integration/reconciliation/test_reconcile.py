"""Every kind of difference is found, only the safe one is mended, operators hear of what is new."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from pypdf import PdfReader

from backline.messages import registry
from backline.payments.provider import PaymentSource
from backline.reconciliation.reconcile_payments import ReconciliationReport, reconcile, window_start
from backline.reconciliation.settings import ReconciliationSettings
from backline.reference_app import invariant_violations
from tests.integration.reconciliation.support import NOW, insert_payment, statement_line, write_statement

DAY = timedelta(days=1)
# Of its own time: the seeded payments lie before it, and are as they should be.
SINCE = NOW - timedelta(hours=6)


@pytest.fixture
def books(seeded_database: str) -> Iterator[psycopg.Connection[DictRow]]:
    with psycopg.connect(seeded_database, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(
            "UPDATE app.payments SET provider_reference = NULL WHERE created_at > %s AND state = 'pending'", [SINCE]
        )
        yield connection


@pytest.fixture
def run(books: psycopg.Connection[DictRow], tmp_path: Path) -> Any:
    config = ReconciliationSettings(report_folder=str(tmp_path / "reports"))

    def run(provider_list: PaymentSource, **changed: Any) -> ReconciliationReport:
        given = {
            "since": SINCE, "until": NOW, "alert_to": ("ops@example.com",),
            **{key: value for key, value in changed.items() if key not in ReconciliationSettings.model_fields},
        }  # fmt: skip
        own = config.model_copy(update={k: v for k, v in changed.items() if k in ReconciliationSettings.model_fields})
        return reconcile(books, "stripe", provider_list, own, **given)

    return run


def seeded(books: psycopg.Connection[DictRow]) -> list[tuple[object, ...]]:
    """The provider's side of the seeded payments that lie in the window."""
    rows = books.execute(
        "SELECT * FROM app.payments WHERE provider = 'stripe' AND provider_reference LIKE 'pi_seed%%' AND created_at > %s",
        [SINCE],
    ).fetchall()
    words = {"captured": "succeeded", "abandoned": "canceled"}
    return [
        statement_line(row["provider_reference"], status=words.get(row["state"], row["state"]), amount=row["amount_minor"],
               currency=row["currency"], at=row["created_at"], refunded=row["refunded_minor"])
        for row in rows
    ]  # fmt: skip


def lines_of(report: ReconciliationReport) -> list[dict[str, str]]:
    with report.csv.open(newline="") as file:
        return list(csv.DictReader(file))


def state(books: psycopg.Connection[DictRow], payment: int) -> tuple[str, str]:
    [row] = books.execute(
        "SELECT p.state::text, o.state::text AS of_order FROM app.payments AS p JOIN app.orders AS o ON o.id = p.order_id"
        " WHERE p.id = %s", [payment],
    )  # fmt: skip
    return row["state"], row["of_order"]


def test_books_that_agree_have_no_difference(books: psycopg.Connection[DictRow], run: Any, tmp_path: Path) -> None:
    insert_payment(books, "pi_1")
    insert_payment(books, "pi_2", state="failed")
    insert_payment(books, "pi_3", state="abandoned")
    insert_payment(books, "pi_4", state="requires_action")
    report = run(
        write_statement(
            tmp_path / "list.csv", *seeded(books), statement_line("pi_1"), statement_line("pi_2", status="requires_payment_method"),
            statement_line("pi_3", status="canceled"), statement_line("pi_4", status="requires_action"), statement_line("pi_1"),
        )
    )  # fmt: skip
    assert (report.findings.found, report.alerts) == ({}, 0)
    assert lines_of(report) == []
    assert "Nothing is left to people." in PdfReader(report.pdf).pages[0].extract_text()
    assert books.execute("SELECT count(*) AS n FROM backline.message").fetchall() == [{"n": 0}]


def test_every_kind_is_found_and_nothing_of_it_is_touched(
    books: psycopg.Connection[DictRow], run: Any, tmp_path: Path
) -> None:
    insert_payment(books, "pi_lost")
    insert_payment(books, "pi_less")
    insert_payment(books, "pi_back")
    insert_payment(books, "pi_yen")
    insert_payment(books, "pi_gone", state="captured")
    twice = insert_payment(books, "pi_once")
    given_up = insert_payment(books, "pi_given_up", state="abandoned")
    before = books.execute("SELECT * FROM app.payments ORDER BY id").fetchall()
    report = run(
        write_statement(
            tmp_path / "list.csv", *seeded(books), statement_line("pi_unknown", order=999_999), statement_line("pi_less", amount=7000),
            statement_line("pi_back", refunded=500), statement_line("pi_yen", currency="jpy"), statement_line("pi_gone", status="canceled"),
            statement_line("pi_once"), statement_line("pi_again", order=twice["order"]),
            statement_line("pi_tried", order=twice["order"], status="requires_payment_method"), statement_line("pi_given_up"),
        )
    )  # fmt: skip
    found = {
        (line["kind"], line["reference"]): (line["ours"], line["theirs"], line["mended"]) for line in lines_of(report)
    }
    assert found == {
        ("missing_here", "pi_unknown"): ("no such payment", "captured", "no"),
        ("missing_there", "pi_lost"): ("captured", "no such payment", "no"),
        ("amount", "pi_less"): ("7280", "7000", "no"),
        ("amount", "pi_back"): ("7280", "7280, 500 refunded", "no"),
        ("currency", "pi_yen"): ("EUR", "JPY", "no"),
        ("status", "pi_gone"): ("captured", "failed", "no"),
        ("duplicate", "pi_again"): ("paid by pi_once", "taken too", "no"),
        ("status", "pi_given_up"): ("abandoned", "captured", "no"),
    }
    assert books.execute("SELECT * FROM app.payments ORDER BY id").fetchall() == before
    assert state(books, given_up["payment"]) == ("abandoned", "reserved")
    text = "\n".join(page.extract_text() for page in PdfReader(report.pdf).pages)
    for said in ("8 differences are left to people", "pi_again", "missing there"):
        assert said in text
    [row] = books.execute("SELECT * FROM backline.reconciliation").fetchall()
    assert (row["fixed"], row["remaining"], row["discrepancies"]["amount"]) == (0, 8, 2)
    json.dumps(report.as_dict())


@pytest.mark.parametrize("ours", ["pending", "requires_action", "failed"])
@pytest.mark.parametrize("is_known", [True, False])
def test_money_that_we_wait_for_is_booked(
    ours: str, is_known: Any, books: psycopg.Connection[DictRow], run: Any, tmp_path: Path, seeded_database: str
) -> None:
    """As after a crash between the charge and our commit: the provider has it, we do not know."""
    made = insert_payment(books, "pi_crash" if is_known else None, state=ours)
    provider_list = write_statement(
        tmp_path / "list.csv", *seeded(books), statement_line("pi_crash", order=made["order"])
    )
    report = run(provider_list)
    assert (report.findings.fixed, report.findings.remaining, report.alerts) == (1, 0, 0)
    assert state(books, made["payment"]) == ("captured", "paid")
    [row] = books.execute("SELECT provider_reference, tries FROM app.payments WHERE id = %s", [made["payment"]])
    assert row == {"provider_reference": "pi_crash", "attempts": 2 if ours == "failed" else 1}
    broken = invariant_violations(seeded_database)
    assert {rule for rule in broken if "payment" in rule or "order is paid" in rule} == set()
    assert run(provider_list).findings.found == {}


def test_a_dry_run_mends_keeps_and_tells_nothing(books: psycopg.Connection[DictRow], run: Any, tmp_path: Path) -> None:
    made = insert_payment(books, "pi_crash", state="pending")
    report = run(
        write_statement(tmp_path / "list.csv", *seeded(books), statement_line("pi_crash"), statement_line("pi_new")),
        dry_run=True,
    )
    assert (report.findings.fixed, report.findings.remaining, report.alerts) == (0, 2, 0)
    assert state(books, made["payment"]) == ("pending", "reserved")
    assert books.execute("SELECT count(*) AS n FROM backline.reconciliation").fetchall() == [{"n": 0}]
    assert "dry run" in PdfReader(report.pdf).pages[0].extract_text()


def test_what_is_not_the_same_to_the_cent_or_under_way_is_not_mended(
    books: psycopg.Connection[DictRow], run: Any, tmp_path: Path
) -> None:
    cheaper = insert_payment(books, "pi_cheap", state="pending")
    refunded = insert_payment(books, "pi_refunded", state="pending")
    other = insert_payment(books, "pi_other", state="pending")
    books.execute("UPDATE app.orders SET state = 'pending', reserved_at = NULL WHERE id = %s", [other["order"]])
    trying = insert_payment(books, "pi_trying", state="failed")
    books.execute("UPDATE app.payments SET tries = 2 WHERE id = %s", [trying["payment"]])
    books.execute("INSERT INTO app.payment_attempts (payment_id, number) VALUES (%s, 2)", [trying["payment"]])
    twice = insert_payment(books, None, state="pending", number="T-1")
    report = run(
        write_statement(
            tmp_path / "list.csv", *seeded(books), statement_line("pi_cheap", amount=7279), statement_line("pi_refunded", refunded=7280),
            statement_line("pi_other"), statement_line("pi_trying"), statement_line("pi_a", order=twice["order"]),
            statement_line("pi_b", order=twice["order"], at=NOW - timedelta(hours=4)),
        )
    )  # fmt: skip
    assert state(books, cheaper["payment"])[0] == state(books, refunded["payment"])[0] == "pending"
    assert state(books, other["payment"])[0] == "pending"
    assert state(books, trying["payment"])[0] == "failed"
    # Of two that were taken for one order, the earlier is it and the other is a duplicate.
    [row] = books.execute("SELECT provider_reference FROM app.payments WHERE id = %s", [twice["payment"]])
    assert row["provider_reference"] == "pi_a"
    kinds = {line["reference"]: line["kind"] for line in lines_of(report) if line["mended"] == "no"}
    assert kinds["pi_b"] == "duplicate"
    assert report.findings.fixed == 1


def test_mending_is_bounded(books: psycopg.Connection[DictRow], run: Any, tmp_path: Path) -> None:
    for n in range(5):
        insert_payment(books, f"pi_{n}", state="pending")
    report = run(
        write_statement(tmp_path / "list.csv", *seeded(books), *(statement_line(f"pi_{n}") for n in range(5))),
        most_fixes=2,
    )
    assert (report.findings.fixed, report.findings.remaining) == (2, 3)


def test_two_at_once_book_once(books: psycopg.Connection[DictRow], tmp_path: Path, seeded_database: str) -> None:
    made = [insert_payment(books, f"pi_{n}", state="pending") for n in range(20)]
    provider_list = write_statement(
        tmp_path / "list.csv", *seeded(books), *(statement_line(f"pi_{n}") for n in range(20))
    )

    def work(n: int) -> ReconciliationReport:
        config = ReconciliationSettings(report_folder=str(tmp_path / str(n)))
        with psycopg.connect(seeded_database, autocommit=True, row_factory=dict_row) as own:
            return reconcile(own, "stripe", provider_list, config, since=SINCE, until=NOW)

    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(work, range(3)))
    assert sum(report.findings.fixed for report in reports) == 20
    assert {state(books, one["payment"]) for one in made} == {("captured", "paid")}
    assert {rule for rule in invariant_violations(seeded_database) if "payment" in rule} == set()


def test_operators_hear_of_what_is_new_above_the_limit(
    books: psycopg.Connection[DictRow], run: Any, tmp_path: Path
) -> None:
    first = write_statement(tmp_path / "1.csv", *seeded(books), statement_line("pi_a"), statement_line("=pi_b"))
    assert run(first, alert_above=2).alerts == 0
    books.execute("TRUNCATE backline.reconciliation_discrepancy")
    told = run(first)
    assert told.alerts == 1
    assert run(first, until=NOW + timedelta(seconds=1)).alerts == 0
    more = write_statement(
        tmp_path / "2.csv", *seeded(books), statement_line("pi_a"), statement_line("=pi_b"), statement_line("pi_c")
    )
    assert run(more, until=NOW + timedelta(seconds=2), alert_to=("a@example.com", "b@example.com")).alerts == 2
    rows = books.execute(
        "SELECT recipient, payload FROM backline.message WHERE type = 'urgent_email' ORDER BY id"
    ).fetchall()
    assert [row["recipient"] for row in rows] == ["ops@example.com", "a@example.com", "b@example.com"]
    context = rows[0]["payload"]["context"]
    assert context["summary"].startswith("2 differences are left to people, 2 of them new; 0 mended.")
    assert context["details"]["missing here"] == "2"
    assert told.csv.name in context["action"]
    assert "Payments differ from stripe's list" in registry.get("urgent_email")(**rows[0]["payload"]).email().subject
    # No spreadsheet takes a reference for a formula.
    assert "'=pi_b" in {line["reference"] for line in lines_of(told)}


def test_what_may_be_under_way_is_left_to_the_next_window(
    books: psycopg.Connection[DictRow], run: Any, tmp_path: Path
) -> None:
    recent = NOW - timedelta(minutes=5)
    insert_payment(books, "pi_recent", at=recent)
    charging = insert_payment(books, "pi_charging", state="pending", at=recent)
    at_the_edge = insert_payment(books, "pi_edge", at=SINCE + timedelta(seconds=10))
    provider_list = write_statement(
        tmp_path / "list.csv", *seeded(books), statement_line("pi_charging", at=recent), statement_line("pi_new", at=recent),
        statement_line("pi_edge", at=SINCE - timedelta(seconds=1)),
    )  # fmt: skip
    assert run(provider_list).findings.found == {}
    later = run(provider_list, until=NOW + timedelta(hours=1))
    assert {(line["kind"], line["reference"], line["mended"]) for line in lines_of(later)} == {
        ("missing_there", "pi_recent", "no"), ("status", "pi_charging", "yes"), ("missing_here", "pi_new", "no"),
    }  # fmt: skip
    assert state(books, charging["payment"]) == ("captured", "paid")
    assert at_the_edge


def test_windows_follow_each_other_with_an_overlap(
    books: psycopg.Connection[DictRow], run: Any, tmp_path: Path
) -> None:
    config = ReconciliationSettings(overlap_hours=3, initial_window_days=2)
    assert window_start(books, "stripe", config, NOW) == NOW - timedelta(days=2)
    run(write_statement(tmp_path / "list.csv", *seeded(books)))
    assert window_start(books, "stripe", config, NOW + DAY) == NOW - timedelta(hours=3)
    assert window_start(books, "razorpay", config, NOW) == NOW - timedelta(days=2)
    # A list that is older than what was covered is of its own time.
    assert window_start(books, "stripe", config, NOW - DAY) == NOW - DAY - timedelta(hours=3)


def test_a_list_that_breaks_off_leaves_no_report(books: psycopg.Connection[DictRow], run: Any, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"list\.csv, line 3, column 'amount_minor': '1,5' is no amount"):
        run(
            write_statement(
                tmp_path / "list.csv",
                statement_line("pi_a"),
                ("pi_b", "1,5", "eur", "succeeded", NOW.isoformat(), 0, ""),
            ),
            until=NOW + DAY,
        )
    assert list((tmp_path / "reports").iterdir()) == []
    assert books.execute("SELECT count(*) AS n FROM backline.reconciliation").fetchall() == [{"n": 0}]
