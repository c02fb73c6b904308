"""Amounts in each provider's units, by the tables in the providers' documentation."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backline.errors import InvalidInput, Rejected
from backline.money import MINOR_UNIT_DIGITS, Money
from backline.payments.provider_units import AMOUNT_NOT_CHARGEABLE, RAZORPAY_UNITS, STRIPE_UNITS, ProviderUnits

CURRENCIES = st.sampled_from(["EUR", "USD", "INR", "HUF", "TWD", "MGA", *sorted(MINOR_UNIT_DIGITS)])


@pytest.mark.parametrize(
    ("minor", "currency", "amount"),
    [
        (1250, "EUR", 1250),
        (5000, "JPY", 5000),
        (5000, "ISK", 500000),
        (5000, "UGX", 500000),
        (500000, "MGA", 5000),
        (5120, "KWD", 5120),
        (5000, "XOF", 5000),
        (17500, "HUF", 17500),
    ],
)
def test_an_amount_for_stripe(minor: int, currency: str, amount: int) -> None:
    money = Money(minor, currency)
    assert STRIPE_UNITS.from_money(money) == amount
    assert STRIPE_UNITS.to_money(amount, currency.lower()) == money


@pytest.mark.parametrize(
    ("minor", "currency", "problem"),
    [(5124, "KWD", "last digit of 0, not 5.124 KWD"), (500050, "MGA", "only whole MGA, not 5000.50 MGA")],
)
def test_an_amount_that_stripe_cannot_express_is_refused(minor: int, currency: str, problem: str) -> None:
    with pytest.raises(Rejected, match=problem) as caught:
        STRIPE_UNITS.from_money(Money(minor, currency))
    assert caught.value.code == AMOUNT_NOT_CHARGEABLE


def test_a_fraction_of_a_currency_without_decimals_is_refused() -> None:
    with pytest.raises(InvalidInput, match="550 ISK"):
        STRIPE_UNITS.to_money(550, "isk")


@given(st.integers(0, 10**12), CURRENCIES, st.sampled_from([STRIPE_UNITS, RAZORPAY_UNITS]))
def test_what_a_provider_can_express_comes_back_unchanged(minor: int, currency: str, units: ProviderUnits) -> None:
    money = Money(minor, currency)
    try:
        amount = units.from_money(money)
    except Rejected:
        assume(False)
    assert units.to_money(amount, currency) == money


def test_money_is_written_with_all_decimals() -> None:
    assert [str(Money(5124, code)) for code in ("KWD", "EUR", "JPY")] == ["5.124 KWD", "51.24 EUR", "5124 JPY"]
