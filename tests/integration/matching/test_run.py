"""match_orders on real tables: what is allocated is written with its reasons, by several at once, and quickly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from backline.db.connect import Session, session
from backline.db.statements import statement
from backline.matching.match_orders import MatchReport, match_open_orders
from backline.matching.settings import MatchingSettings

CONFIG = MatchingSettings()
SECONDS = 60.0
"""For 10,000 orders and the offers of 1,000 suppliers, from the first read to the commit."""
MARKET = """
INSERT INTO app.products (sku, name) SELECT 'P-' || n, 'Product ' || n FROM generate_series(1, %(products)s) AS n;
INSERT INTO app.suppliers (name, email, regions, quality, capacity)
SELECT 'Supplier ' || n, 's' || n || '@example.com', CASE n % 3 WHEN 0 THEN '{DE,FR}' WHEN 1 THEN '{DE}' ELSE '{FR,US}' END::app.country[],
    0.8 + (n % 20) / 100.0, 500 + n % 500
FROM generate_series(1, %(suppliers)s) AS n;
INSERT INTO app.offers (supplier_id, product_id, unit_price_minor, currency, min_quantity, quantity, lead_days, valid)
SELECT s, 1 + (s * 7 + k * 13) % %(products)s, 1000 + (s * 31 + k * 17) % 400, 'EUR', 1 + s % 3, 60 + s % 40, 1 + (s + k) % 20,
    tstzrange(now() - interval '1 day', now() + interval '30 days')
FROM generate_series(1, %(suppliers)s) AS s CROSS JOIN generate_series(1, %(each)s) AS k;
INSERT INTO app.purchase_orders (product_id, quantity, region, max_price_minor, currency, needed_by)
SELECT 1 + n % %(products)s, 1 + n % 40, CASE n % 5 WHEN 0 THEN 'FR' WHEN 3 THEN 'US' ELSE 'DE' END,
    CASE n % 4 WHEN 0 THEN 1300 END, 'EUR', current_date + 5 + n % 25
FROM generate_series(1, %(orders)s) AS n;
"""


@pytest.fixture
def app_tables(database: str) -> Iterator[Session]:
    with session(database, name="test") as connection:
        yield connection


def seed_market(database: Session, **numbers: int) -> None:
    for text in MARKET.split(";\n")[:-1]:
        query = text.replace(" % ", " %% ")
        database.execute(query, numbers)  # type: ignore[call-overload]


def invariant_violations(database: Session) -> dict[str, int]:
    rows = database.execute(statement("reference_app", "invariant_violations")).fetchall()
    return {row["rule"]: row["broken"] for row in rows}


def over_capacity(database: Session) -> list[dict[str, Any]]:
    """Suppliers that have more in hand than they can."""
    return database.execute(
        "SELECT s.id FROM app.suppliers AS s JOIN app.offers AS o ON o.supplier_id = s.id JOIN app.allocations AS a"
        " ON a.offer_id = o.id JOIN app.purchase_orders AS p ON p.id = a.purchase_order_id WHERE p.state = 'allocated'"
        " GROUP BY s.id HAVING sum(a.quantity) > s.capacity"
    ).fetchall()


def test_an_allocation_says_why(app_tables: Session) -> None:
    seed_market(app_tables, products=1, suppliers=2, each=1, orders=1)
    report = match_open_orders(app_tables, CONFIG, limit=10)
    assert (report.orders, report.allocated, report.quantity, report.unmatched, report.remaining) == (1, 1, 2, 0, 0)
    [row] = app_tables.execute("SELECT score::text, explanation, offer_id, quantity FROM app.allocations").fetchall()
    why = row["explanation"]
    assert why["score"] == row["score"]
    assert (row["quantity"], why["place"], why["fitting"]) == (2, 1, 1)
    assert why["text"] == f"Score {row['score']}: the only offer that fits."
    price = why["parts"]["price"]
    assert price == {"score": "1.00000", "weight": 40, "unit_price_minor": price["cheapest_minor"], "cheapest_minor": price["cheapest_minor"]}  # fmt: skip
    assert why["parts"]["capacity"]["quantity"] == 2
    assert app_tables.execute("SELECT state::text FROM app.purchase_orders").fetchall() == [{"state": "allocated"}]
    assert invariant_violations(app_tables) == {}


def test_a_dry_run_changes_nothing(app_tables: Session) -> None:
    seed_market(app_tables, products=2, suppliers=10, each=1, orders=20)
    dry = match_open_orders(app_tables, CONFIG, limit=100, dry_run=True)
    assert dry.dry_run
    assert dry.allocated > 5
    assert app_tables.execute("SELECT FROM app.allocations").fetchall() == []
    done = match_open_orders(app_tables, CONFIG, limit=100)
    assert (done.allocated, done.remaining, done.quantity) == (dry.allocated, dry.remaining, dry.quantity)
    assert match_open_orders(app_tables, CONFIG, limit=100).allocated == 0


def test_what_is_bounded_begins_with_what_is_needed_first(app_tables: Session) -> None:
    seed_market(app_tables, products=1, suppliers=20, each=1, orders=10)
    report = match_open_orders(app_tables, CONFIG, limit=4)
    assert (report.orders, report.remaining) == (4, 10 - report.allocated)
    [row] = app_tables.execute(
        "SELECT max(needed_by) FILTER (WHERE state = 'allocated') <= min(needed_by) FILTER (WHERE state = 'open') AS first"
        " FROM app.purchase_orders"
    ).fetchall()
    assert row["first"]


def test_an_offer_that_is_over_or_of_a_supplier_that_is_not_active_serves_nobody(app_tables: Session) -> None:
    seed_market(app_tables, products=1, suppliers=2, each=1, orders=5)
    app_tables.execute("UPDATE app.suppliers SET is_active = false WHERE id = 1")
    app_tables.execute(
        "UPDATE app.offers SET valid = tstzrange(now() - interval '2 days', now()) WHERE supplier_id = 2"
    )
    report = match_open_orders(app_tables, CONFIG, limit=10)
    assert (report.allocated, report.unmatched) == (0, 5)
    assert report.unmatched_reasons[0] == {
        "order": report.unmatched_reasons[0]["order"],
        "went_to_others": 0,
        "against": {},
    }


def test_capacity_in_hand_counts_until_it_is_received(app_tables: Session) -> None:
    seed_market(app_tables, products=1, suppliers=1, each=1, orders=0)
    app_tables.execute("UPDATE app.suppliers SET capacity = 10")
    app_tables.execute(
        "INSERT INTO app.purchase_orders (product_id, quantity, region, currency, needed_by)"
        " SELECT 1, 6, 'DE', 'EUR', current_date + 30 FROM generate_series(1, 2)"
    )
    assert match_open_orders(app_tables, CONFIG, limit=10).allocated == 1
    report = match_open_orders(app_tables, CONFIG, limit=10)
    assert (report.allocated, report.unmatched_reasons[0]["against"]) == (0, {"capacity": 1})
    app_tables.execute(
        "UPDATE app.purchase_orders SET state = 'received', received_at = clock_timestamp() WHERE state = 'allocated'"
    )
    assert match_open_orders(app_tables, CONFIG, limit=10).allocated == 1


def test_several_at_once_never_over_allocate(app_tables: Session, database: str) -> None:
    seed_market(app_tables, products=3, suppliers=12, each=2, orders=600)
    app_tables.execute("UPDATE app.suppliers SET capacity = 100")

    def run(_: int) -> MatchReport:
        with session(database, name="racer") as connection:
            return match_open_orders(connection, CONFIG, limit=60)

    with ThreadPoolExecutor(6) as pool:
        reports = list(pool.map(run, range(12)))
    assert sum(report.allocated for report in reports) > 30
    assert sum(report.orders > 0 for report in reports) > 2
    assert invariant_violations(app_tables) == {}
    assert over_capacity(app_tables) == []
    rows = app_tables.execute("SELECT count(*)::integer AS n FROM app.allocations").fetchall()
    assert rows[0]["n"] == sum(report.allocated for report in reports)


@pytest.mark.parametrize(("products", "each"), [(50, 10), (1, 1)], ids=["many products", "one product"])
def test_ten_thousand_orders_and_a_thousand_suppliers_within_a_minute(
    products: int, each: int, app_tables: Session
) -> None:
    seed_market(app_tables, products=products, suppliers=1000, each=each, orders=10_000)
    started = time.monotonic()
    report = match_open_orders(app_tables, CONFIG, limit=10_000)
    took = time.monotonic() - started
    assert report.orders == 10_000
    assert report.allocated > 1000
    assert took < SECONDS, f"{took:.1f} s"
    assert invariant_violations(app_tables) == {}
    assert over_capacity(app_tables) == []


def test_seeded_data_can_be_matched(seeded_database: str) -> None:
    with session(seeded_database, name="test") as connection:
        report = match_open_orders(connection, CONFIG, limit=1000)
        assert report.orders > 10
        assert report.allocated > 0
        assert invariant_violations(connection) == {}
