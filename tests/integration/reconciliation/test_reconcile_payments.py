"""Every kind of discrepancy is found, only safe ones are fixed, operators are alerted about new ones."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader

from backline.errors import InvalidInput, Skipped
from backline.messages import registry
from backline.reconciliation.reconcile_payments import covered_until, reconcile_payments, window_start
from backline.reconciliation.settings import ReconciliationSettings
from tests.integration.job_factory import OPERATOR, create_job
from tests.integration.reconciliation.support import NOW, LocalIds, insert_payment, statement_line, write_statement
from tests.integration.shop import Shop

HOURS = 6
SINCE = NOW - timedelta(hours=HOURS)
DAY = timedelta(days=1)

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(database: str, tmp_path: Path) -> Run:
    """Reconciles a window of the six hours before `until` with these lines of a statement."""

    def run(
        *lines: tuple[object, ...], until: datetime = NOW, dry_run: bool = False, **settings: Any
    ) -> dict[str, Any]:
        path = write_statement(tmp_path / "statements" / "stripe_1.csv", *lines)
        os.utime(path, (until.timestamp(), until.timestamp()))
        config = ReconciliationSettings(
            statement_folder=str(path.parent), report_folder=str(tmp_path / "reports"), **settings
        )
        hours = HOURS + (until - NOW) / timedelta(hours=1)
        params = {"provider": "stripe", "file": path.name, "days": hours / 24, "dry_run": dry_run}
        result: dict[str, Any] = create_job(database, config, params=params).execute(reconcile_payments)
        return result

    return run


def lines_of(result: dict[str, Any]) -> list[dict[str, str]]:
    with Path(result["csv"]).open(newline="") as file:
        return list(csv.DictReader(file))


def states(shop: Shop, ids: LocalIds) -> tuple[str, str]:
    state = shop.fetch_value("SELECT state::text FROM app.payments WHERE id = %s", ids.payment)
    return state, shop.order_state(ids.order)


def test_identical_payments_have_no_discrepancies(shop: Shop, run: Run) -> None:
    insert_payment(shop, "pi_1")
    insert_payment(shop, "pi_2", state="failed")
    insert_payment(shop, "pi_3", state="abandoned")
    insert_payment(shop, "pi_4", state="requires_action")
    result = run(
        statement_line("pi_1"), statement_line("pi_2", status="requires_payment_method"),
        statement_line("pi_3", status="canceled"), statement_line("pi_4", status="requires_action"), statement_line("pi_1"),
    )  # fmt: skip
    assert (result["found"], result["alerts"]) == ({}, 0)
    assert lines_of(result) == []
    assert "Nothing needs review." in PdfReader(result["pdf"]).pages[0].extract_text()
    assert shop.messages() == []


def test_every_kind_is_found_and_nothing_unsafe_is_changed(shop: Shop, run: Run) -> None:
    for name in ("lost", "less", "back", "yen", "gone"):
        insert_payment(shop, f"pi_{name}")
    twice = insert_payment(shop, "pi_once")
    given_up = insert_payment(shop, "pi_given_up", state="abandoned")
    before = shop.execute("SELECT * FROM app.payments ORDER BY id")
    result = run(
        statement_line("pi_unknown", order=999_999), statement_line("pi_less", amount=7000),
        statement_line("pi_back", refunded=500), statement_line("pi_yen", currency="jpy"), statement_line("pi_gone", status="canceled"),
        statement_line("pi_once"), statement_line("pi_again", order=twice.order),
        statement_line("pi_tried", order=twice.order, status="requires_payment_method"), statement_line("pi_given_up"),
    )  # fmt: skip
    found = {
        (line["kind"], line["reference"]): (line["local"], line["provider"], line["fixed"]) for line in lines_of(result)
    }
    assert found == {
        ("missing_here", "pi_unknown"): ("no such payment", "captured", "no"),
        ("missing_there", "pi_lost"): ("captured", "no such payment", "no"),
        ("amount", "pi_less"): ("7280", "7000", "no"),
        ("amount", "pi_back"): ("7280", "7280, 500 refunded", "no"),
        ("currency", "pi_yen"): ("EUR", "JPY", "no"),
        ("status", "pi_gone"): ("captured", "failed", "no"),
        ("duplicate", "pi_again"): ("paid by pi_once", "captured too", "no"),
        ("status", "pi_given_up"): ("abandoned", "captured", "no"),
    }
    assert shop.execute("SELECT * FROM app.payments ORDER BY id") == before
    assert states(shop, given_up) == ("abandoned", "reserved")
    text = "\n".join(page.extract_text() for page in PdfReader(result["pdf"]).pages)
    for expected in ("8 discrepancies need review", "pi_again", "missing there"):
        assert expected in text
    row = shop.fetch_one("SELECT * FROM backline.reconciliation")
    assert (row["fixed"], row["remaining"], row["discrepancies"]["amount"]) == (0, 8, 2)


@pytest.mark.parametrize("state", ["pending", "requires_action", "failed"])
@pytest.mark.parametrize("reference", ["pi_crash", None])
def test_a_capture_of_an_open_payment_is_recorded(state: str, reference: str | None, shop: Shop, run: Run) -> None:
    """As after a crash between the provider's capture and the local commit."""
    ids = insert_payment(shop, reference, state=state)
    line = statement_line("pi_crash", order=ids.order)
    result = run(line)
    assert (result["fixed"], result["remaining"], result["alerts"]) == (1, 0, 0)
    assert states(shop, ids) == ("captured", "paid")
    row = shop.fetch_one("SELECT provider_reference, attempts FROM app.payments WHERE id = %s", ids.payment)
    assert row == {"provider_reference": "pi_crash", "attempts": 2 if state == "failed" else 1}
    assert shop.invariant_violations() == {}
    assert run(line)["found"] == {}


def test_a_dry_run_changes_nothing_and_alerts_nobody(shop: Shop, run: Run) -> None:
    ids = insert_payment(shop, "pi_crash", state="pending")
    result = run(statement_line("pi_crash"), statement_line("pi_new"), dry_run=True)
    assert (result["fixed"], result["remaining"], result["alerts"]) == (0, 2, 0)
    assert states(shop, ids) == ("pending", "reserved")
    assert shop.fetch_value("SELECT count(*) FROM backline.reconciliation") == 0
    assert "dry run" in PdfReader(result["pdf"]).pages[0].extract_text()


def test_different_amounts_and_attempts_in_progress_are_not_fixed(shop: Shop, run: Run) -> None:
    cheaper = insert_payment(shop, "pi_cheap", state="pending")
    refunded = insert_payment(shop, "pi_refunded", state="pending")
    other = insert_payment(shop, "pi_other", state="pending")
    shop.execute("UPDATE app.orders SET state = 'pending', reserved_at = NULL WHERE id = %s", other.order)
    retrying = insert_payment(shop, "pi_retrying", state="failed")
    shop.execute("UPDATE app.payments SET attempts = 2 WHERE id = %s", retrying.payment)
    shop.execute("INSERT INTO app.payment_attempts (payment_id, number) VALUES (%s, 2)", retrying.payment)
    twice = insert_payment(shop, None, state="pending")
    result = run(
        statement_line("pi_cheap", amount=7279), statement_line("pi_refunded", refunded=7280),
        statement_line("pi_other"), statement_line("pi_retrying"), statement_line("pi_a", order=twice.order),
        statement_line("pi_b", order=twice.order, at=NOW - timedelta(hours=4)),
    )  # fmt: skip
    assert states(shop, cheaper)[0] == states(shop, refunded)[0] == states(shop, other)[0] == "pending"
    assert states(shop, retrying)[0] == "failed"
    # Of two captures for one order, the earlier pays it and the other is a duplicate.
    assert shop.payment(twice.order)["provider_reference"] == "pi_a"
    kinds = {line["reference"]: line["kind"] for line in lines_of(result) if line["fixed"] == "no"}
    assert kinds["pi_b"] == "duplicate"
    assert (result["fixed"], result["fixes"]["outcomes"]) == (1, {"fixed": 1, "not_safe": 2})


def test_fixes_are_limited(shop: Shop, run: Run) -> None:
    for n in range(5):
        insert_payment(shop, f"pi_{n}", state="pending")
    result = run(*(statement_line(f"pi_{n}") for n in range(5)), batch_limit=2)
    assert (result["fixed"], result["remaining"], result["fixes"]["limit_reached"]) == (2, 3, True)


def test_a_fix_that_fails_affects_only_its_payment(shop: Shop, run: Run) -> None:
    for n in range(3):
        insert_payment(shop, f"pi_{n}", state="pending")
    shop.execute("ALTER TABLE app.payments ADD CHECK (provider_reference <> 'pi_1' OR state <> 'captured')")
    result = run(*(statement_line(f"pi_{n}") for n in range(3)))
    assert (result["fixed"], result["remaining"], result["fixes"]["failures"][0]["key"]) == (2, 1, "pi_1")
    assert {line["reference"]: line["fixed"] for line in lines_of(result)} == {
        "pi_0": "yes",
        "pi_1": "no",
        "pi_2": "yes",
    }


def test_concurrent_runs_record_each_capture_once(database: str, shop: Shop, tmp_path: Path) -> None:
    payments = [insert_payment(shop, f"pi_{n}", state="pending") for n in range(20)]
    path = write_statement(tmp_path / "list.csv", *(statement_line(f"pi_{n}") for n in range(20)))

    def work(n: int) -> dict[str, Any]:
        config = ReconciliationSettings(statement_folder=str(tmp_path), report_folder=str(tmp_path / str(n)))
        params = {"provider": "stripe", "file": path.name, "days": 0.5}
        result: dict[str, Any] = create_job(database, config, params=params).execute(reconcile_payments)
        return result

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(work, range(3)))
    assert sum(result["fixed"] for result in results) == 20
    assert {states(shop, ids) for ids in payments} == {("captured", "paid")}
    assert shop.invariant_violations() == {}


def test_operators_are_alerted_about_new_discrepancies_above_the_threshold(shop: Shop, run: Run) -> None:
    lines = (statement_line("pi_a"), statement_line("=pi_b"))
    assert run(*lines, alert_threshold=2)["alerts"] == 0
    shop.execute("TRUNCATE backline.reconciliation_discrepancy")
    first = run(*lines)
    assert first["alerts"] == 1
    assert run(*lines, until=NOW + timedelta(seconds=1))["alerts"] == 0
    assert run(*lines, statement_line("pi_c"), until=NOW + timedelta(seconds=2))["alerts"] == 1
    messages = shop.messages("urgent_email")
    assert [row["recipient"] for row in messages] == [OPERATOR, OPERATOR]
    context = messages[0]["payload"]["context"]
    assert context["summary"].startswith("2 discrepancies need review, 2 of them new; 0 fixed.")
    assert context["details"]["missing here"] == "2"
    assert Path(first["csv"]).name in context["action"]
    email = registry.get("urgent_email")(**messages[0]["payload"]).email()  # type: ignore[attr-defined]
    assert "Payments differ from stripe's statement" in email.subject
    # Spreadsheets do not take a reference for a formula.
    assert "'=pi_b" in {line["reference"] for line in lines_of(first)}


def test_payments_in_progress_are_left_to_the_next_window(shop: Shop, run: Run) -> None:
    recent = NOW - timedelta(minutes=5)
    insert_payment(shop, "pi_recent", at=recent)
    charging = insert_payment(shop, "pi_charging", state="pending", at=recent)
    insert_payment(shop, "pi_edge", at=SINCE + timedelta(seconds=10))
    lines = (
        statement_line("pi_charging", at=recent), statement_line("pi_new", at=recent),
        statement_line("pi_edge", at=SINCE - timedelta(seconds=1)),
    )  # fmt: skip
    assert run(*lines)["found"] == {}
    later = run(*lines, until=NOW + timedelta(hours=1))
    assert {(line["kind"], line["reference"], line["fixed"]) for line in lines_of(later)} == {
        ("missing_there", "pi_recent", "no"), ("status", "pi_charging", "yes"), ("missing_here", "pi_new", "no"),
    }  # fmt: skip
    assert states(shop, charging) == ("captured", "paid")


def test_windows_overlap(database: str, run: Run) -> None:
    config = ReconciliationSettings(overlap_hours=3, initial_window_days=2)
    job = create_job(database, config)
    assert window_start(covered_until(job, "stripe"), config, NOW) == NOW - timedelta(days=2)
    run()
    covered = covered_until(job, "stripe")
    assert window_start(covered, config, NOW + DAY) == NOW - timedelta(hours=3)
    assert covered_until(job, "razorpay") is None
    # The window of a statement that is older than the last one ends at its own time.
    assert window_start(covered, config, NOW - DAY) == NOW - DAY - timedelta(hours=3)


def test_a_statement_that_is_missing_or_already_reconciled_is_skipped(database: str, tmp_path: Path) -> None:
    config = ReconciliationSettings(statement_folder=str(tmp_path), report_folder=str(tmp_path / "reports"))

    def run(**params: Any) -> dict[str, Any]:
        result: dict[str, Any] = create_job(database, config, params=params).execute(reconcile_payments)
        return result

    with pytest.raises(Skipped, match=r"no statement of razorpay: put its export as razorpay_<day>\.csv into"):
        run(provider="razorpay")
    with pytest.raises(Skipped, match="has no payment provider stripe; or give a file"):
        run(provider="stripe")
    with pytest.raises(InvalidInput, match=r"file: there is no file '\.\./list\.csv'"):
        run(provider="stripe", file="../list.csv")
    for day in (1, 2):
        path = write_statement(tmp_path / f"razorpay_{day}.csv")
        os.utime(path, (NOW.timestamp() + day, NOW.timestamp() + day))
    assert datetime.fromisoformat(run(provider="razorpay")["until"]) == NOW + timedelta(seconds=2)  # the newest
    with pytest.raises(Skipped, match="the newest statement of razorpay has been reconciled"):
        run(provider="razorpay")


def test_an_invalid_statement_leaves_no_report(shop: Shop, run: Run, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"stripe_1\.csv, line 3, column 'amount_minor': '1,5' is not an amount"):
        run(statement_line("pi_a"), ("pi_b", "1,5", "eur", "succeeded", NOW.isoformat(), 0, ""), until=NOW + DAY)
    assert list((tmp_path / "reports").iterdir()) == []
    assert shop.fetch_value("SELECT count(*) FROM backline.reconciliation") == 0
