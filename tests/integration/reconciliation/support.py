"""Payments on both sides: in the app's tables, and on a provider's statement."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.integration.shop import Line, Shop

NOW = datetime.now(UTC).replace(microsecond=0)
CREATED_AT = NOW - timedelta(hours=5)
COLUMNS = ("id", "amount_minor", "currency", "status", "created_at", "refunded_minor", "order_id")


@dataclass(frozen=True, slots=True)
class LocalIds:
    """A local payment and its order."""

    payment: int
    order: int


def insert_payment(
    shop: Shop,
    reference: str | None,
    *,
    state: str = "captured",
    amount: int = 7280,
    currency: str = "EUR",
    at: datetime = CREATED_AT,
) -> LocalIds:
    """An order and its payment with one attempt."""
    order = shop.order(Line(price=amount, tax_rate=0), at=at, currency=currency)
    return LocalIds(shop.add_payment(order, state, reference=reference, at=at), order)


def statement_line(
    reference: str,
    *,
    status: str = "succeeded",
    amount: int = 7280,
    currency: str = "eur",
    at: datetime = CREATED_AT,
    refunded: int = 0,
    order: int | str = "",
) -> tuple[object, ...]:
    """A line of the provider's statement."""
    return (reference, amount, currency, status, at.isoformat(), refunded, order)


def write_statement(path: Path, *lines: tuple[object, ...]) -> Path:
    """The provider's statement as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *lines])
    return path
