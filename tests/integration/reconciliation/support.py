"""Payments on our side and on the provider's, to hold against each other."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import DictRow

from backline.reconciliation.csv_statement import CsvStatement

NOW = datetime.now(UTC).replace(microsecond=0)
COLUMNS = ("id", "amount_minor", "currency", "status", "created_at", "refunded_minor", "order_id")
PLACED: LiteralString = """
WITH placed AS (
    INSERT INTO app.orders (number, user_id, currency, net_minor, tax_minor, ship_to_country, placed_at)
    SELECT %(number)s, 1, %(currency)s, %(amount)s, 0, 'DE', %(at)s::timestamptz - interval '1 hour' RETURNING id
), lines AS (
    INSERT INTO app.order_lines (order_id, number, product_id, description, quantity, unit_price_minor, tax_rate)
    SELECT id, 1, 1, 'Cups', 1, %(amount)s, 0 FROM placed
)
SELECT id FROM placed
"""
PAYMENT: LiteralString = """
INSERT INTO app.payments (order_id, provider, provider_reference, idempotency_key, amount_minor, currency, state, tries,
    decline_kind, decline_code, created_at, captured_at, failed_at, abandoned_at)
VALUES (%(order)s, 'stripe', %(reference)s, 'order-' || %(number)s, %(amount)s, %(currency)s, %(state)s::app.payment_state,
    1, %(decline)s::app.decline_kind, CASE WHEN %(decline)s::text IS NOT NULL THEN 'declined' END, %(at)s,
    CASE WHEN %(state)s = 'captured' THEN %(at)s + interval '2 seconds' END,
    CASE WHEN %(decline)s::text IS NOT NULL THEN %(at)s + interval '2 seconds' END,
    CASE WHEN %(state)s = 'abandoned' THEN %(at)s + interval '3 seconds' END)
RETURNING id
"""


def insert_payment(
    connection: psycopg.Connection[DictRow],
    reference: str | None,
    *,
    state: str = "captured",
    amount: int = 7280,
    currency: str = "EUR",
    at: datetime = NOW - timedelta(hours=5),
    number: str | None = None,
) -> dict[str, Any]:
    """An order and its payment on our side."""
    values: dict[str, Any] = {
        "number": number or f"R-{reference}", "currency": currency, "amount": amount, "at": at, "reference": reference,
        "state": state, "decline": {"failed": "soft", "abandoned": "hard"}.get(state),
    }  # fmt: skip
    with connection.transaction():
        values["order"] = connection.execute(PLACED, values).fetchone()["id"]  # type: ignore[index]
        connection.execute(
            "UPDATE app.orders SET state = 'reserved', reserved_at = %(at)s WHERE id = %(order)s", values
        )
        payment = connection.execute(PAYMENT, values).fetchone()["id"]  # type: ignore[index]
        outcome = {"captured": "captured", "failed": "declined", "abandoned": "declined"}.get(state)
        connection.execute(
            "INSERT INTO app.payment_attempts (payment_id, number, started_at, ended_at, outcome, decline_kind, decline_code)"
            " VALUES (%(payment)s, 1, %(at)s, CASE WHEN %(outcome)s::text IS NOT NULL THEN %(at)s + interval '2 seconds' END,"
            " %(outcome)s::app.attempt_outcome, %(decline)s::app.decline_kind,"
            " CASE WHEN %(decline)s::text IS NOT NULL THEN 'declined' END)",
            {**values, "payment": payment, "outcome": outcome},
        )
        if state == "captured":
            connection.execute(
                "UPDATE app.orders SET state = 'paid', paid_at = %(at)s + interval '2 seconds' WHERE id = %(order)s",
                values,
            )
    return {"payment": payment, "order": values["order"]}


def statement_line(
    reference: str,
    *,
    status: str = "succeeded",
    amount: int = 7280,
    currency: str = "eur",
    at: datetime = NOW - timedelta(hours=5),
    refunded: int = 0,
    order: int | str = "",
) -> tuple[object, ...]:
    """A line of the provider's list."""
    return (reference, amount, currency, status, at.isoformat(), refunded, order)


def write_statement(path: Path, *lines: tuple[object, ...]) -> CsvStatement:
    """The provider's list as a file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *lines])
    return CsvStatement(path)
