"""A provider's list as a CSV file, as operators export it from the provider's dashboard."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from backline.errors import InvalidInput
from backline.payments.provider import STATES, ProviderPayment
from backline.rendering.formats import MINOR_DIGITS

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
OPTIONAL = frozenset({"refunded", "order_id"})


@dataclass(frozen=True, slots=True)
class CsvPayments:
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
                places = self._places(next(lines, []))
                for cells in lines:
                    if not cells:
                        continue
                    row = _Row(self.path.name, lines.line_num, cells, places)
                    if since <= (created_at := row.time("created_at")) < until:
                        yield row.payment(created_at)
        except FileNotFoundError:
            raise InvalidInput("file", f"{self.path} is not there; put the provider's list there") from None
        except (UnicodeDecodeError, csv.Error) as exc:
            raise InvalidInput("file", f"{self.path.name} is not CSV in UTF-8: {exc}") from None

    def _places(self, head: list[str]) -> dict[str, tuple[int, str]]:
        names = [name.strip().lower() for name in head]
        places: dict[str, tuple[int, str]] = {}
        for column, known in COLUMNS.items():
            for name in known:
                if name in names:
                    places[column] = (names.index(name), name)
                    break
            else:
                if column not in OPTIONAL:
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
    places: Mapping[str, tuple[int, str]]

    def payment(self, created_at: datetime) -> ProviderPayment:
        currency = self.text("currency").upper()
        state = STATES.get(self.text("state").lower())
        if not self.text("reference"):
            raise self.wrong("reference", "is empty")
        if state is None:
            raise self.wrong("state", f"{self.text('state')!r} is none of: {', '.join(STATES)}")
        if len(currency) != 3 or not currency.isalpha():
            raise self.wrong("currency", f"{currency!r} is no code of ISO 4217")
        order = self.text("order_id")
        if order and not order.isdecimal():
            raise self.wrong("order_id", f"{order!r} is no whole number")
        return ProviderPayment(
            reference=self.text("reference"),
            amount_minor=self.money("amount", currency),
            currency=currency,
            state=state,
            created_at=created_at,
            refunded_minor=self.money("refunded", currency),
            order_id=int(order) if order else None,
        )

    def text(self, column: str) -> str:
        if column not in self.places:
            return ""
        place, _ = self.places[column]
        return self.cells[place].strip() if place < len(self.cells) else ""

    def money(self, column: str, currency: str) -> int:
        text = self.text(column)
        if not text and column in OPTIONAL:
            return 0
        try:
            amount = Decimal(text)
            if not self.places[column][1].endswith("_minor"):
                amount = amount.scaleb(MINOR_DIGITS.get(currency, 2))
            whole = int(amount)
        except (InvalidOperation, ValueError, OverflowError):
            raise self.wrong(column, f"{text!r} is no amount; write it like 12.50, without thousands' marks") from None
        if whole != amount or whole < 0:
            raise self.wrong(column, f"{text!r} is not a whole number of the smallest units of {currency}")
        return whole

    def time(self, column: str) -> datetime:
        text = self.text(column)
        try:
            moment = datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else datetime.fromisoformat(text)
        except (ValueError, OverflowError, OSError):
            raise self.wrong(column, f"{text!r} is no time; write it like 2026-03-01T18:30:00Z") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def wrong(self, column: str, problem: str) -> InvalidInput:
        name = self.places[column][1] if column in self.places else column
        return InvalidInput("file", f"{self.file}, line {self.line}, column {name!r}: {problem}")
