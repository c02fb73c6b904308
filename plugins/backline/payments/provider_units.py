"""Amounts in the units of each provider's API, which for some currencies are not the minor units of ISO 4217."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backline.errors import InvalidInput, Rejected
from backline.money import Money, minor_unit_digits

AMOUNT_NOT_CHARGEABLE = "amount_not_chargeable"
"""The code of an amount that the provider's API cannot express."""


@dataclass(frozen=True, slots=True)
class ProviderUnits:
    """How a provider writes amounts as integers."""

    provider: str
    """As its customers know it."""
    digits: Mapping[str, int]
    """Decimals of the currencies that differ from ISO 4217."""
    last_digit_is_zero: frozenset[str]
    """Currencies of three decimals, of which the last must be 0."""

    def from_money(self, money: Money) -> int:
        """The amount for the provider's API. Rejected, with the code `amount_not_chargeable`, if it cannot express it."""
        amount, rest = _shift(money.minor, self._digits(money.currency) - minor_unit_digits(money.currency))
        if rest:
            raise Rejected(
                f"{self.provider} takes only whole {money.currency}, not {money}", code=AMOUNT_NOT_CHARGEABLE
            )
        if money.currency in self.last_digit_is_zero and amount % 10:
            problem = f"{self.provider} takes {money.currency} only with a last digit of 0, not {money}"
            raise Rejected(problem, code=AMOUNT_NOT_CHARGEABLE)
        return amount

    def to_money(self, amount: int, currency: str) -> Money:
        """An amount of the provider's API. InvalidInput for a fraction of a currency that has none."""
        currency = currency.upper()
        minor, rest = _shift(amount, minor_unit_digits(currency) - self._digits(currency))
        if rest:
            raise InvalidInput("amount", f"{self.provider} names {amount} {currency}, which is no whole amount of it")
        return Money(minor, currency)

    def _digits(self, currency: str) -> int:
        return self.digits.get(currency, minor_unit_digits(currency))


def _shift(amount: int, digits: int) -> tuple[int, int]:
    """The amount times ten to the power of `digits`, and what a division leaves over."""
    scale = int(10 ** abs(digits))
    return (amount * scale, 0) if digits >= 0 else divmod(amount, scale)


STRIPE_UNITS = ProviderUnits(
    "Stripe",
    # ISK and UGX have no decimals, but Stripe keeps two, which must be 00. It has none for MGA, whose ISO 4217 has two.
    digits={"ISK": 2, "UGX": 2, "MGA": 0},
    last_digit_is_zero=frozenset(("BHD", "JOD", "KWD", "OMR", "TND")),
)
"""https://docs.stripe.com/currencies, zero-decimal, three-decimal and special cases."""
RAZORPAY_UNITS = ProviderUnits("Razorpay", digits={}, last_digit_is_zero=frozenset(("BHD", "JOD", "KWD", "OMR", "TND")))
"""https://razorpay.com/docs/payments/international-payments/: the subunits of ISO 4217."""
