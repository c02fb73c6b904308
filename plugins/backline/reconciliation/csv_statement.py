"""A provider's statement as a CSV file, as exported from the provider's dashboard."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from backline.errors import InvalidInput, Skipped
from backline.files import exists
from backline.money import minor_unit_digits
from backline.payments.provider import PAYMENT_STATES, ProviderPayment

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "reference": ("reference", "id"),
    "amount": ("amount_minor", "amount"),
    "currency": ("currency",),
    "state": ("state", "status"),
    "created_at": ("created_at", "created date (utc)", "created (utc)", "created"),
    "refunded": ("refunded_minor", "amount refunded", "amount_refunded"),
    "order_id": ("order_id", "order_id (metadata)", "metadata[order_id]"),
}
"""Accepted names of each column, case-insensitive."""
OPTIONAL_COLUMNS = frozenset({"refunded", "order_id"})


def find_statement(folder: Path, provider: str, file: str | None) -> Path:
    """The named file of a folder, else the newest `<provider>*.csv`. InvalidInput or Skipped if there is none."""
    if file is not None:
        path = folder / file
        if "/" in file or "\\" in file or not exists(path) or not path.is_file():
            raise InvalidInput("file", f"there is no file {file!r} in {folder}; put the provider's statement there")
        return path
    found = sorted(folder.glob(f"{provider}*.csv"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise Skipped(
            f"no statement of {provider}: put its export as {provider}_<day>.csv into {folder} "
            "(reconciliation.statement_folder; docs/commerce.md lists the columns)"
        )
    return found[-1]


@dataclass(frozen=True, slots=True)
class CsvStatement:
    """The payments in a file: UTF-8, with a line of column names.

    A column `amount` has decimals (12.50), a column `amount_minor` has minor units (1250). Times are ISO 8601 (without a
    zone: UTC) or seconds since 1970.
    """

    path: Path

    def list_payments(self, since: datetime, until: datetime) -> Iterator[ProviderPayment]:
        """The payments created from `since` to before `until`, line by line. InvalidInput names the line and column."""
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                lines = csv.reader(file)
                columns = self._find_columns(next(lines, []))
                for cells in lines:
                    if not cells:
                        continue
                    row = _Row(self.path.name, lines.line_num, cells, columns)
                    if since <= (created_at := row.timestamp("created_at")) < until:
                        yield row.payment(created_at)
        except FileNotFoundError:
            raise InvalidInput("file", f"{self.path} does not exist; put the provider's statement there") from None
        except (UnicodeDecodeError, csv.Error) as exc:
            raise InvalidInput("file", f"{self.path.name} is not CSV in UTF-8: {exc}") from None

    def _find_columns(self, head: list[str]) -> dict[str, tuple[int, str]]:
        """Index and name in this file of each column."""
        names = [name.strip().lower() for name in head]
        columns = {}
        for column, known in COLUMNS.items():
            found = next((name for name in known if name in names), None)
            if found is not None:
                columns[column] = (names.index(found), found)
            elif column not in OPTIONAL_COLUMNS:
                raise InvalidInput(
                    "file", f"{self.path.name} has no column {known[0]!r}; name it in the first line, as one of {known}"
                )
        return columns


@dataclass(frozen=True, slots=True)
class _Row:
    file: str
    line: int
    cells: list[str]
    columns: Mapping[str, tuple[int, str]]

    def payment(self, created_at: datetime) -> ProviderPayment:
        currency = self.text("currency").upper()
        state = PAYMENT_STATES.get(self.text("state").lower())
        if not self.text("reference"):
            raise self.error("reference", "is empty")
        if state is None:
            raise self.error("state", f"{self.text('state')!r} is none of: {', '.join(PAYMENT_STATES)}")
        if len(currency) != 3 or not currency.isalpha():
            raise self.error("currency", f"{currency!r} is not an ISO 4217 code")
        order = self.text("order_id")
        if order and not order.isdecimal():
            raise self.error("order_id", f"{order!r} is not a whole number")
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
        index, _ = self.columns.get(column, (len(self.cells), column))
        return self.cells[index].strip() if index < len(self.cells) else ""

    def minor_units(self, column: str, currency: str) -> int:
        text = self.text(column)
        if not text and column in OPTIONAL_COLUMNS:
            return 0
        try:
            amount = Decimal(text)
            if not self.columns[column][1].endswith("_minor"):
                amount = amount.scaleb(minor_unit_digits(currency))
            whole = int(amount)
        except (InvalidOperation, ValueError, OverflowError):
            raise self.error(
                column, f"{text!r} is not an amount; write it like 12.50, without group separators"
            ) from None
        if whole != amount or whole < 0:
            raise self.error(column, f"{text!r} is not a whole number of minor units of {currency}")
        return whole

    def timestamp(self, column: str) -> datetime:
        text = self.text(column)
        try:
            moment = datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else datetime.fromisoformat(text)
        except (ValueError, OverflowError, OSError):
            raise self.error(column, f"{text!r} is not a time; write it like 2026-03-01T18:30:00Z") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def error(self, column: str, problem: str) -> InvalidInput:
        _, name = self.columns.get(column, (0, column))
        return InvalidInput("file", f"{self.file}, line {self.line}, column {name!r}: {problem}")
