"""The reference app's tables reject invalid rows, whoever writes them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import DictRow

from backline.errors import Misconfigured
from stack import reference_app
from stack.reference_app import FOLDER

FILES = [path.stem for path in sorted(FOLDER.glob("*.sql"))]
UNCOMMENTED: LiteralString = """
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = 'app'::regnamespace AND c.relkind = 'r' AND c.relname <> 'migration' AND obj_description(c.oid) IS NULL
"""
# Columns of foreign keys without an index: deleting a referenced row would read the whole table.
UNINDEXED: LiteralString = """
SELECT k.conrelid::regclass || '.' || k.conname FROM pg_constraint AS k
WHERE k.contype = 'f' AND k.connamespace = 'app'::regnamespace AND k.confrelid <> 'app.order_transitions'::regclass
  AND k.confrelid <> 'app.invoice_series'::regclass
  AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = k.conrelid AND i.indkey[0] = ANY (k.conkey))
"""


def test_the_schema_is_applied_once_and_recorded(empty_database: str) -> None:
    assert reference_app.apply_schema(empty_database) == FILES
    assert reference_app.apply_schema(empty_database) == []
    with psycopg.connect(empty_database) as connection:
        names = connection.execute("SELECT name FROM app.migration ORDER BY number").fetchall()
        assert connection.execute("SELECT to_regnamespace('backline')").fetchone() == (None,)
    assert [f"{number:04d}_{name}" for number, (name,) in enumerate(names, 1)] == FILES


def test_set_up_updates_an_installed_schema_and_creates_none(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert reference_app.update_schema(empty_database) == []
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT to_regnamespace('app')").fetchone() == (None,)
    reference_app.apply_schema(empty_database)
    newer = shutil.copytree(reference_app.FOLDER, tmp_path / "reference_app")
    added = f"{len(FILES) + 1:04d}_colours"
    (newer / f"{added}.sql").write_text("CREATE TABLE app.colours (name text);", encoding="utf-8")
    monkeypatch.setattr(reference_app, "FOLDER", newer)
    assert reference_app.update_schema(empty_database) == [added]
    assert reference_app.update_schema(empty_database) == []


def test_a_foreign_schema_is_not_changed(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("CREATE SCHEMA app")
        connection.execute("CREATE TABLE app.users (theirs integer)")
        connection.execute("CREATE TABLE app.migration (number integer, name text, checksum text)")
    assert reference_app.update_schema(empty_database) == []
    for call in (reference_app.apply_schema, lambda dsn: reference_app.seed(dsn, 1, replace=True)):
        with pytest.raises(Misconfigured, match="schema 'app' that is not Backline's reference app"):
            call(empty_database)
    with psycopg.connect(empty_database) as connection:
        tables = connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 'app'::regnamespace ORDER BY 1")
        assert [name for (name,) in tables] == ["migration", "users"]


def test_every_table_has_a_comment(app: psycopg.Connection[DictRow]) -> None:
    assert app.execute(UNCOMMENTED).fetchall() == []


def test_every_foreign_key_has_an_index(app: psycopg.Connection[DictRow]) -> None:
    assert app.execute(UNINDEXED).fetchall() == []


REJECTED: dict[str, tuple[LiteralString, str]] = {
    "stock below what is reserved": ("UPDATE app.products SET stock = reserved - 1", "products_stock"),
    "a negative reservation": ("UPDATE app.products SET reserved = -1", "products_stock"),
    "two open carts": (
        "INSERT INTO app.carts (user_id) SELECT user_id FROM app.carts WHERE state = 'open'", "carts_one_open",
    ),
    "an order paid twice": (
        ("INSERT INTO app.payments (order_id, provider, provider_reference, idempotency_key, amount_minor, currency, state, attempts, created_at, captured_at)"
        " SELECT order_id, provider, provider_reference || 'x', idempotency_key || 'x', amount_minor, currency, state, 1, created_at, captured_at"
        " FROM app.payments WHERE state = 'captured'"),
        "payments_one_captured",
    ),
    "a payment in another currency": (
        "UPDATE app.payments SET currency = 'CHF' WHERE state = 'pending'", "payments_order_id_currency_fkey",
    ),
    "a payment of nothing": ("UPDATE app.payments SET amount_minor = 0", "payments_amount_minor_check"),
    "a captured payment without its time": (
        "UPDATE app.payments SET captured_at = NULL WHERE state = 'captured'", "payments_state",
    ),
    "more refunded than captured": ("UPDATE app.payments SET refunded_minor = amount_minor + 1", "payments_refunded"),
    "a hard decline with another attempt": (
        "UPDATE app.payments SET next_attempt_at = failed_at + interval '1 day' WHERE state = 'abandoned'", "payments_state",
    ),
    "a delivered order that was not shipped": (
        "UPDATE app.orders SET shipped_at = NULL, carrier = NULL, tracking_number = NULL WHERE state = 'delivered'", "orders_state",
    ),
    "a shipped order without a carrier": ("UPDATE app.orders SET carrier = NULL WHERE state = 'shipped'", "orders_shipment"),
    "an order shipped before it was placed": (
        "UPDATE app.orders SET shipped_at = placed_at - interval '1 day' WHERE state = 'shipped'", "orders_times",
    ),
    "a transition that is not allowed": (
        ("UPDATE app.orders SET state = 'pending', reserved_at = NULL, paid_at = NULL, confirmed_at = NULL, shipped_at = NULL,"
        " carrier = NULL, tracking_number = NULL, delivered_at = NULL WHERE state = 'delivered'"),
        "order_history_transition",
    ),
    "a cycle with two orders": (
        ("UPDATE app.orders AS o SET subscription_id = s.subscription_id, cycle_on = s.cycle_on"
        " FROM (SELECT * FROM app.orders WHERE subscription_id IS NOT NULL LIMIT 1) AS s WHERE o.id = 1"),
        "orders_one_per_cycle",
    ),
    "a cycle without a subscription": ("UPDATE app.orders SET cycle_on = '2026-01-01' WHERE id = 1", "orders_cycle"),
    "a line that is sold twice": (
        ("INSERT INTO app.stock_movements (product_id, reason, quantity, order_line_id)"
        " SELECT product_id, reason, quantity, order_line_id FROM app.stock_movements WHERE reason = 'sold'"),
        "stock_movements_once",
    ),
    "a sale that adds to the stock": ("UPDATE app.stock_movements SET quantity = 1 WHERE reason = 'sold'", "stock_movements_sign"),
    "a gap in the invoices": (
        "DELETE FROM app.invoices AS i WHERE number = 2 AND EXISTS (SELECT FROM app.invoices AS n WHERE n.series = i.series AND n.number = 3)",
        "invoices_no_gap",
    ),
    "an invoice number that skips one": (
        "UPDATE app.invoices AS i SET number = number + 5 WHERE number = (SELECT max(number) FROM app.invoices AS m WHERE m.series = i.series)",
        "invoices_no_gap",
    ),
    "two invoices of one order": (
        ("INSERT INTO app.invoices (series, number, order_id, currency, net_minor, tax_minor, language, buyer_name, buyer_email, buyer_country)"
        " SELECT series, number + 1, order_id, currency, 1, 0, 'en', 'Customer', 'c@example.com', 'DE' FROM app.invoices AS i"
        " WHERE number = (SELECT max(number) FROM app.invoices AS m WHERE m.series = i.series) AND kind = 'invoice'"),
        "invoices_one_per_order",
    ),
    "a next date that is not on the anchor day": (
        "UPDATE app.subscriptions SET next_on = next_on + 1 WHERE state = 'active'", "subscriptions_anchor",
    ),
    "a cancelled subscription with a next date": (
        "UPDATE app.subscriptions SET next_on = app.anchor_date('2036-01-01', anchor_day) WHERE state = 'cancelled'", "subscriptions_state",
    ),
    "an offer over-allocated": ("UPDATE app.offers SET allocated = quantity + 1", "offers_quantity"),
    "two offers of one supplier at the same time": (
        ("INSERT INTO app.offers (supplier_id, product_id, unit_price_minor, currency, quantity, lead_days, valid)"
        " SELECT supplier_id, product_id, 1, 'EUR', 1, 1, tstzrange(lower(valid) + interval '1 day', NULL) FROM app.offers LIMIT 1"),
        "offers_one_at_a_time",
    ),
    "a used token that keeps its secret": (
        "UPDATE app.tokens SET token_encrypted = 'gAAAA...' WHERE used_at IS NOT NULL", "tokens_once",
    ),
    "a token in plaintext": ("UPDATE app.tokens SET token_encrypted = 'secret' WHERE used_at IS NULL", "tokens_token_encrypted_check"),
    "SMS without a phone number": ("UPDATE app.users SET channels = '{sms}', phone = NULL", "users_channels"),
    "a phone number that is not E.164": ("UPDATE app.users SET phone = '0176 123'", "users_phone_check"),
    "an active user who is not verified": ("UPDATE app.users SET verified_at = NULL WHERE state = 'active'", "users_state"),
    "the same email address in upper case": (
        "INSERT INTO app.users (email, name, country) SELECT upper(email), name, country FROM app.users LIMIT 1", "users_email",
    ),
    "a role that a user grants to themselves": ("UPDATE app.user_roles SET granted_by = user_id", "user_roles_other"),
    "a password in a URL": (
        "UPDATE app.integrations SET base_url = 'https://me:secret@erp.example.com/'", "integrations_base_url_check",
    ),
    "an open circuit without a time": (
        "UPDATE app.integration_endpoints SET circuit = 'open', failures = 3", "integration_endpoints_circuit",
    ),
    "a notification enqueued without its message": (
        "UPDATE app.scheduled_notifications SET state = 'enqueued', enqueued_at = due_at WHERE state = 'scheduled'",
        "scheduled_notifications_state",
    ),
    "an archive with a negative row count": ("INSERT INTO app.audit_archives VALUES ('2026-01-01', 'a', -1, sha256('a'))", "audit_archives_rows_check"),
}  # fmt: skip


@pytest.mark.parametrize("case", REJECTED)
def test_an_invalid_row_is_rejected(case: str, app: psycopg.Connection[DictRow]) -> None:
    query, constraint = REJECTED[case]
    with pytest.raises(errors.IntegrityError) as caught:
        app.execute(query)
    assert caught.value.diag.constraint_name == constraint


@pytest.mark.parametrize(
    "query",
    [
        "UPDATE app.orders SET net_minor = net_minor + 1 WHERE id = 1",
        "UPDATE app.order_lines SET quantity = quantity + 1 WHERE order_id = 1 AND number = 1",
        "DELETE FROM app.order_lines WHERE order_id = (SELECT id FROM app.orders WHERE shipped_at IS NULL LIMIT 1)",
        "INSERT INTO app.orders (number, user_id, currency, net_minor, tax_minor, ship_to_country) VALUES ('bare', 1, 'EUR', 5, 0, 'DE')",
    ],
)
def test_an_order_whose_totals_differ_from_its_lines_is_rejected_at_commit(
    query: LiteralString, app: psycopg.Connection[DictRow]
) -> None:
    app.execute(query)
    with pytest.raises(errors.CheckViolation, match="does not add up"):
        app.execute("SET CONSTRAINTS ALL IMMEDIATE")


def test_a_line_cannot_move_to_another_order(app: psycopg.Connection[DictRow]) -> None:
    app.execute("UPDATE app.order_lines SET order_id = 2, number = 99 WHERE order_id = 1 AND number = 1")
    with pytest.raises(errors.CheckViolation, match="belongs to order 1"):
        app.execute("SET CONSTRAINTS ALL IMMEDIATE")


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "+02:00", "berlin"])
def test_an_unknown_time_zone_is_rejected(zone: str, app: psycopg.Connection[DictRow]) -> None:
    with pytest.raises((errors.CheckViolation, errors.InvalidParameterValue)):
        app.execute("UPDATE app.users SET zone = %s WHERE id = 1", [zone])


def test_a_transition_is_recorded_automatically(app: psycopg.Connection[DictRow]) -> None:
    [row] = app.execute("SELECT min(id) AS id FROM app.orders WHERE state = 'pending'").fetchall()
    order = row["id"]
    app.execute("UPDATE app.orders SET state = 'reserved', reserved_at = clock_timestamp() WHERE id = %s", [order])
    app.execute("UPDATE app.orders SET state = 'pending', reserved_at = NULL WHERE id = %s", [order])
    transitions = app.execute(
        "SELECT from_state, to_state FROM app.order_history WHERE order_id = %s ORDER BY id", [order]
    )
    assert [tuple(row.values()) for row in transitions] == [
        (None, "pending"),
        ("pending", "reserved"),
        ("reserved", "pending"),
    ]


def test_an_invoice_number_is_locked_until_commit_and_reused_after_rollback(seeded_database: str) -> None:
    take = "SELECT app.next_invoice_number('T-1')"
    with psycopg.connect(seeded_database) as first, psycopg.connect(seeded_database) as second:
        assert first.execute(take).fetchone() == (1,)
        second.execute("SET lock_timeout = '100ms'")
        with pytest.raises(errors.LockNotAvailable):
            second.execute(take)
        first.rollback()
        second.rollback()
        assert second.execute(take).fetchone() == (1,)
        assert second.execute(take).fetchone() == (2,)
        second.commit()
        assert first.execute(take).fetchone() == (3,)


@pytest.mark.parametrize(
    ("month", "anchor", "day"),
    [
        ("2026-02-10", 31, "2026-02-28"),
        ("2028-02-01", 30, "2028-02-29"),
        ("2026-04-30", 31, "2026-04-30"),
        ("2026-12-31", 5, "2026-12-05"),
    ],
)
def test_an_anchor_day_is_limited_to_the_month(
    month: str, anchor: int, day: str, app: psycopg.Connection[DictRow]
) -> None:
    row = app.execute("SELECT app.anchor_date(%s::date, %s)::text AS day", [month, anchor]).fetchone()
    assert row == {"day": day}
