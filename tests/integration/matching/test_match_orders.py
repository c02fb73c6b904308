"""match_orders on real tables: allocations with their explanation, concurrent runs, and its speed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from backline.db.connect import session
from backline.matching.match_orders import match_orders
from backline.matching.settings import MatchingSettings
from tests.integration.job_factory import create_job
from tests.integration.shop import Shop

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


def seed_market(shop: Shop, **numbers: int) -> None:
    for text in MARKET.split(";\n")[:-1]:
        shop.database.execute(text.replace(" % ", " %% "), numbers)


def run(dsn: str, limit: int | None = None, *, dry_run: bool = False) -> dict[str, Any]:
    job = create_job(dsn, MatchingSettings(), params={"limit": limit, "dry_run": dry_run})
    result: dict[str, Any] = job.execute(match_orders)
    return result


def over_capacity(shop: Shop) -> list[dict[str, Any]]:
    """Suppliers with more allocated pieces than their capacity."""
    return shop.execute(
        "SELECT s.id FROM app.suppliers AS s JOIN app.offers AS o ON o.supplier_id = s.id JOIN app.allocations AS a"
        " ON a.offer_id = o.id JOIN app.purchase_orders AS p ON p.id = a.purchase_order_id WHERE p.state = 'allocated'"
        " GROUP BY s.id HAVING sum(a.quantity) > s.capacity"
    )


def test_an_allocation_is_explained(database: str, shop: Shop) -> None:
    seed_market(shop, products=1, suppliers=2, each=1, orders=1)
    result = run(database)
    assert result == {
        "dry_run": False, "orders": 1, "allocated": 1, "quantity": 2, "unmatched": 0, "remaining": 0, "unmatched_reasons": [],
    }  # fmt: skip
    row = shop.fetch_one("SELECT score::text, explanation, offer_id, quantity FROM app.allocations")
    explanation = row["explanation"]
    assert explanation["score"] == row["score"]
    assert (row["quantity"], explanation["rank"], explanation["eligible_offers"]) == (2, 1, 1)
    assert explanation["text"] == f"Score {row['score']}: the only eligible offer."
    price = explanation["components"]["price"]
    assert price == {"score": "1.00000", "weight": 40, "unit_price_minor": price["cheapest_minor"], "cheapest_minor": price["cheapest_minor"]}  # fmt: skip
    assert explanation["components"]["capacity"]["quantity"] == 2
    assert shop.fetch_value("SELECT state::text FROM app.purchase_orders") == "allocated"
    assert shop.invariant_violations() == {}


def test_a_dry_run_changes_nothing(database: str, shop: Shop) -> None:
    seed_market(shop, products=2, suppliers=10, each=1, orders=20)
    dry = run(database, dry_run=True)
    assert dry["dry_run"]
    assert dry["allocated"] > 5
    assert shop.execute("SELECT FROM app.allocations") == []
    done = run(database)
    assert [done[key] for key in ("allocated", "remaining", "quantity")] == [
        dry[key] for key in ("allocated", "remaining", "quantity")
    ]
    assert run(database)["allocated"] == 0


def test_a_limited_run_takes_the_earliest_deadlines(database: str, shop: Shop) -> None:
    seed_market(shop, products=1, suppliers=20, each=1, orders=10)
    result = run(database, 4)
    assert (result["orders"], result["remaining"]) == (4, 10 - result["allocated"])
    assert shop.fetch_value(
        "SELECT max(needed_by) FILTER (WHERE state = 'allocated') <= min(needed_by) FILTER (WHERE state = 'open')"
        " FROM app.purchase_orders"
    )


def test_expired_offers_and_inactive_suppliers_are_ignored(database: str, shop: Shop) -> None:
    seed_market(shop, products=1, suppliers=2, each=1, orders=5)
    shop.execute("UPDATE app.suppliers SET is_active = false WHERE id = 1")
    shop.execute("UPDATE app.offers SET valid = tstzrange(now() - interval '2 days', now()) WHERE supplier_id = 2")
    result = run(database)
    assert (result["allocated"], result["unmatched"]) == (0, 5)
    reasons = result["unmatched_reasons"][0]
    assert reasons == {"order": reasons["order"], "taken_by_others": 0, "rejection_reasons": {}}


def test_allocated_orders_use_capacity_until_they_are_received(database: str, shop: Shop) -> None:
    seed_market(shop, products=1, suppliers=1, each=1, orders=0)
    shop.execute("UPDATE app.suppliers SET capacity = 10")
    shop.execute(
        "INSERT INTO app.purchase_orders (product_id, quantity, region, currency, needed_by)"
        " SELECT 1, 6, 'DE', 'EUR', current_date + 30 FROM generate_series(1, 2)"
    )
    assert run(database)["allocated"] == 1
    result = run(database)
    assert (result["allocated"], result["unmatched_reasons"][0]["rejection_reasons"]) == (0, {"capacity": 1})
    shop.execute(
        "UPDATE app.purchase_orders SET state = 'received', received_at = clock_timestamp() WHERE state = 'allocated'"
    )
    assert run(database)["allocated"] == 1


def test_concurrent_runs_never_over_allocate(database: str, shop: Shop) -> None:
    seed_market(shop, products=3, suppliers=12, each=2, orders=600)
    shop.execute("UPDATE app.suppliers SET capacity = 100")
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: run(database, 60), range(12)))
    assert sum(result["allocated"] for result in results) > 30
    assert sum(result["orders"] > 0 for result in results) > 2
    assert shop.invariant_violations() == {}
    assert over_capacity(shop) == []
    allocations = shop.fetch_value("SELECT count(*) FROM app.allocations")
    assert allocations == sum(result["allocated"] for result in results)


@pytest.mark.parametrize(("products", "each"), [(50, 10), (1, 1)], ids=["many products", "one product"])
def test_ten_thousand_orders_and_a_thousand_suppliers_within_a_minute(
    products: int, each: int, database: str, shop: Shop
) -> None:
    seed_market(shop, products=products, suppliers=1000, each=each, orders=10_000)
    started = time.monotonic()
    result = run(database)
    seconds = time.monotonic() - started
    assert result["orders"] == 10_000
    assert result["allocated"] > 1000
    assert seconds < SECONDS, f"{seconds:.1f} s"
    assert shop.invariant_violations() == {}
    assert over_capacity(shop) == []


def test_seeded_data_can_be_matched(seeded_database: str) -> None:
    result = run(seeded_database)
    assert result["orders"] > 10
    assert result["allocated"] > 0
    with session(seeded_database, name="test") as connection:
        assert Shop(connection).invariant_violations() == {}
