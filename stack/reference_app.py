"""The reference app: the tables of a small shop (schema `app`), for every job to run on, with generated data.

The data is generated in bulk, by SQL, and is the same for the same seed, scale and day.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import psycopg

from backline.db.connect import translate_errors
from backline.db.migrate import apply_files
from backline.db.statements import SQL_FOLDER, statement
from backline.encryption import Encryptor
from backline.errors import InvalidInput, Misconfigured

SCHEMA = "app"
FOLDER = SQL_FOLDER / "reference_app"
SCHEMA_COMMENT = "Backline's reference app"
"""The comment of the schema, by which Backline recognizes it as its own."""
DEFAULT_SEED = 1
MAX_SCALE = 1000
SEED_STEPS: Mapping[str, tuple[str, ...]] = {
    "seed_users": ("users",),
    "seed_user_roles": ("user_roles",),
    "seed_sessions": ("sessions",),
    "seed_tokens": ("tokens",),
    "seed_push_tokens": ("push_tokens",),
    "seed_scheduled_notifications": ("scheduled_notifications",),
    "seed_privacy_requests": ("privacy_requests",),
    "seed_products": ("products", "product_prices"),
    "seed_suppliers": ("suppliers",),
    "seed_offers": ("offers",),
    "seed_purchase_orders": ("purchase_orders", "allocations"),
    "seed_subscriptions": ("subscriptions",),
    "seed_orders": ("orders", "order_lines"),
    "seed_order_history": ("order_history",),
    "seed_order_reminders": ("order_reminders",),
    "seed_carts": ("carts", "cart_lines"),
    "seed_stock": ("stock_movements",),
    "seed_payments": ("payments",),
    "seed_payment_attempts": ("payment_attempts",),
    "seed_refunds": ("refunds",),
    "seed_payment_events": ("payment_events",),
    "seed_invoices": ("invoices", "invoice_series"),
    "seed_invoice_lines": ("invoice_lines",),
    "seed_audit_log": ("audit_log",),
    "seed_events": ("events",),
    "seed_integrations": ("integrations", "integration_endpoints"),
    "seed_integration_records": ("integration_records",),
}
"""Statements in execution order, and the tables that each fills."""


@dataclass(frozen=True, slots=True)
class SeedResult:
    """Rows of each table, seconds of each step, and seconds in total, commit included."""

    rows: Mapping[str, int]
    steps: Mapping[str, float]
    seconds: float

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())


def apply_schema(dsn: str) -> list[str]:
    """Create the schema `app` or bring it up to date; returns the names of the files applied.

    One transaction under a lock, like `backline.db.migrate`. Misconfigured if a schema `app` exists that is not Backline's.
    """
    with translate_errors(), psycopg.connect(dsn) as connection:
        return _apply_in_transaction(connection)


def update_schema(dsn: str) -> list[str]:
    """As `apply_schema`, but only where the reference app is installed."""
    with translate_errors(), psycopg.connect(dsn) as connection:
        row = connection.execute(statement("reference_app", "schema_owner")).fetchone()
        return _apply_in_transaction(connection) if row and row[1] == SCHEMA_COMMENT else []


def seed(
    dsn: str,
    scale: int,
    seed: int = DEFAULT_SEED,
    *,
    replace: bool = False,
    today: date | None = None,
    encryptor: Encryptor | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> SeedResult:
    """Fill the schema `app`, which is created or updated first, with `scale` times about 10,000 rows.

    The same seed, scale and `today` (default: today in UTC) give the same rows, except for the encrypted text of tokens.
    Without an `encryptor` tokens have only hashes and cannot be resolved by reference. `replace` empties the tables first;
    without it, existing rows are InvalidInput. One transaction, one seeding at a time. Enqueues no message.
    """
    if not 1 <= scale <= MAX_SCALE:
        raise InvalidInput("scale", f"must be from 1 (about 10,000 rows) to {MAX_SCALE}; 100 creates about a million")
    if not -(2**63) <= seed < 2**63:
        raise InvalidInput("seed", "must be a whole number of 64 bits")
    values = {"scale": scale, "seed": seed, "today": today or datetime.now(UTC).date()}
    started = time.monotonic()
    seconds: dict[str, float] = {}
    with translate_errors(), psycopg.connect(dsn) as connection:
        for name in _apply_in_transaction(connection):
            report(f"applied {name}")
        _empty_tables(connection, report, replace=replace)
        for name, tables in SEED_STEPS.items():
            step_started = time.monotonic()
            connection.execute(statement("reference_app", name), values)
            seconds[name] = time.monotonic() - step_started
            report(f"{', '.join(tables)} ({seconds[name]:.1f} s)")
        if encryptor is not None:
            _encrypt_tokens(connection, values, encryptor)
        connection.execute(statement("reference_app", "analyze"))
        rows = _row_counts(connection)
    return SeedResult(rows, seconds, time.monotonic() - started)


def invariant_violations(dsn: str) -> dict[str, int]:
    """Violated rules across tables, with the number of rows that violate each; empty if all hold."""
    with translate_errors(), psycopg.connect(dsn) as connection:
        return dict(connection.execute(statement("reference_app", "invariant_violations")).fetchall())


def _apply_in_transaction(connection: psycopg.Connection[Any]) -> list[str]:
    row = connection.execute(statement("reference_app", "schema_owner")).fetchone()
    exists, comment = row or (False, None)
    if exists and comment != SCHEMA_COMMENT:
        raise Misconfigured(
            f"the database has a schema {SCHEMA!r} that is not Backline's reference app; "
            "use another database for it (yours was not changed), and see docs/adopting.md to work on your own tables"
        )
    return apply_files(connection, SCHEMA, FOLDER)


def _empty_tables(connection: psycopg.Connection[Any], report: Callable[[str], None], *, replace: bool) -> None:
    filled = ", ".join(f"{name} {rows:,}" for name, rows in _row_counts(connection).items() if rows)
    if not filled:
        return
    if not replace:
        raise InvalidInput("replace", f"schema app already has rows ({filled}); --replace deletes them first")
    report(f"emptying schema app: {filled}")
    connection.execute(statement("reference_app", "tables_truncate"))
    [(outbox_exists,)] = connection.execute(statement("reference_app", "outbox_exists")).fetchall()
    if outbox_exists:
        connection.execute(statement("reference_app", "idempotency_keys_delete"))


def _row_counts(connection: psycopg.Connection[Any]) -> dict[str, int]:
    return dict(connection.execute(statement("reference_app", "row_counts")).fetchall())


def _encrypt_tokens(connection: psycopg.Connection[Any], values: Mapping[str, Any], encryptor: Encryptor) -> None:
    live = connection.execute(statement("reference_app", "seed_tokens_select"), values).fetchall()
    encrypted = {"ids": [number for number, _ in live], "encrypted": [encryptor.encrypt(token) for _, token in live]}
    connection.execute(statement("reference_app", "seed_tokens_encrypt"), encrypted)
