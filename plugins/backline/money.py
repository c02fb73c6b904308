"""Amounts of money, in the minor units of their currency (ISO 4217)."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

# fmt: off
MINOR_UNIT_DIGITS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV",
                     "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
# fmt: on
"""Currencies whose minor unit is not a hundredth (ISO 4217, list one). CLDR's digits are only for display."""


def minor_unit_digits(currency: str) -> int:
    """How many decimals the currency has: 2 for EUR, 0 for JPY, 3 for KWD."""
    return MINOR_UNIT_DIGITS.get(currency, 2)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount: 1250 EUR in minor units is 12.50 EUR."""

    minor: int
    currency: str
    """ISO 4217 code, in capitals."""

    @property
    def decimal(self) -> Decimal:
        """In the currency's major unit, with all of its decimals."""
        return Decimal(self.minor).scaleb(-minor_unit_digits(self.currency))

    def __str__(self) -> str:
        return f"{self.decimal:f} {self.currency}"
