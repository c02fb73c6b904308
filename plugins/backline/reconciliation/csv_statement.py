"""A provider's list as a CSV file, as operators export it from the provider's dashboard."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from backline.errors import InvalidInput
from backline.payments.provider import PAYMENT_STATES, ProviderPayment
from backline.rendering.formats import MINOR_UNIT_DIGITS

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "reference": ("reference", "id"),
    "amount": ("amount_minor", "amount"),
    "currency": ("currency",),
    "state": ("state", "status"),
    "created_at": ("created_at", "created date (utc)", "created (utc)", "created"),
    "refunded": ("refunded_minor", "amount refunded", "amount_refunded"),
    "order_id": ("order_id", "order_id (metadata)", "metadata[order_id]"),
}
"""The names that a column may have, in any case of letters. Those of refunds and orders may be missing."""
OPTIONAL_COLUMNS = frozenset({"refunded", "order_id"})


@dataclass(frozen=True, slots=True)
class CsvStatement:
    """The list in a file: UTF-8, with a line of column names.

    An amount whose column is called `amount` is written with decimals (12.50), one called `amount_minor` without (1250).
    Times are ISO 8601 or seconds since 1970; one without a zone is UTC.
    """

    path: Path

    def list_payments(self, since: datetime, until: datetime) -> Iterator[ProviderPayment]:
        """Those of the window, line by line. InvalidInput names the line and the column that cannot be read."""
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as opened:
                lines = csv.reader(opened)
                places = self._column_indexes(next(lines, []))
                for cells in lines:
                    if not cells:
                        continue
                    row = _Row(self.path.name, lines.line_num, cells, places)
                    if since <= (created_at := row.timestamp("created_at")) < until:
                        yield row.payment(created_at)
        except FileNotFoundError:
            raise InvalidInput("file", f"{self.path} is not there; put the provider's list there") from None
        except (UnicodeDecodeError, csv.Error) as exc:
            raise InvalidInput("file", f"{self.path.name} is not CSV in UTF-8: {exc}") from None

    def _column_indexes(self, head: list[str]) -> dict[str, tuple[int, str]]:
        names = [name.strip().lower() for name in head]
        places: dict[str, tuple[int, str]] = {}
        for column, known in COLUMNS.items():
            for name in known:
                if name in names:
                    places[column] = (names.index(name), name)
                    break
            else:
                if column not in OPTIONAL_COLUMNS:
                    raise InvalidInput(
                        "file",
                        f"{self.path.name} has no column {known[0]!r}; name it in the first line, as one of {known}",
                    )
        return places


@dataclass(frozen=True, slots=True)
class _Row:
    file: str
    line: int
    cells: list[str]
    column_indexes: Mapping[str, tuple[int, str]]

    def payment(self, created_at: datetime) -> ProviderPayment:
        currency = self.text("currency").upper()
        state = PAYMENT_STATES.get(self.text("state").lower())
        if not self.text("reference"):
            raise self.error("reference", "is empty")
        if state is None:
            raise self.error("state", f"{self.text('state')!r} is none of: {', '.join(PAYMENT_STATES)}")
        if len(currency) != 3 or not currency.isalpha():
            raise self.error("currency", f"{currency!r} is no code of ISO 4217")
        order = self.text("order_id")
        if order and not order.isdecimal():
            raise self.error("order_id", f"{order!r} is no whole number")
        return ProviderPayment(
            reference=self.text("reference"),
            amount_minor=self.minor_units("amount", currency),
            currency=currency,
            state=state,
            created_at=created_at,
            refunded_minor=self.minor_units("refunded", currency),
            order_id=int(order) if order else None,
        )

    def text(self, column: str) -> str:
        if column not in self.column_indexes:
            return ""
        place, _ = self.column_indexes[column]
        return self.cells[place].strip() if place < len(self.cells) else ""

    def minor_units(self, column: str, currency: str) -> int:
        text = self.text(column)
        if not text and column in OPTIONAL_COLUMNS:
            return 0
        try:
            amount = Decimal(text)
            if not self.column_indexes[column][1].endswith("_minor"):
                amount = amount.scaleb(MINOR_UNIT_DIGITS.get(currency, 2))
            whole = int(amount)
        except (InvalidOperation, ValueError, OverflowError):
            raise self.error(column, f"{text!r} is no amount; write it like 12.50, without thousands' marks") from None
        if whole != amount or whole < 0:
            raise self.error(column, f"{text!r} is not a whole number of the smallest units of {currency}")
        return whole

    def timestamp(self, column: str) -> datetime:
        text = self.text(column)
        try:
            moment = datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else datetime.fromisoformat(text)
        except (ValueError, OverflowError, OSError):
            raise self.error(column, f"{text!r} is no time; write it like 2026-03-01T18:30:00Z") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def error(self, column: str, problem: str) -> InvalidInput:
        name = self.column_indexes[column][1] if column in self.column_indexes else column
        return InvalidInput("file", f"{self.file}, line {self.line}, column {name!r}: {problem}")
