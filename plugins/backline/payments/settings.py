"""Settings of payments: section [payments] of backline.toml, which explains each."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field

from backline.settings.base import Section, register, url_with

DEFAULT_CURRENCY_KEY = "*"
"""In `approval_above`: every currency without an entry."""
CurrencyCode = Annotated[str, Field(pattern=r"^([A-Z]{3}|\*)$")]


def _check_days(days: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in pairwise(days)):
        raise ValueError(
            f"{list(days)} must increase: each is the days from the first decline to another attempt, as in [1, 3, 5, 7]"
        )
    return days


@register("payments")
class PaymentSettings(Section):
    """How orders are paid."""

    connection: str = "stripe_api"
    razorpay_connection: str = ""
    timeout_seconds: float = Field(30.0, gt=0, le=80)
    dunning_days: Annotated[tuple[Annotated[int, Field(ge=1, le=365)], ...], AfterValidator(_check_days)] = (1, 3, 5, 7)
    batch_limit: int = Field(500, ge=1, le=10_000)
    approval_above: Mapping[CurrencyCode, Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: {DEFAULT_CURRENCY_KEY: 100_000, "JPY": 100_000, "INR": 5_000_000}
    )
    approval_timeout_hours: float = Field(24.0, gt=0, le=720)
    fix_url: Annotated[str, url_with("order", "https")] = "https://localhost/orders/{order}/pay"
    receipt_delay_seconds: float = Field(60.0, ge=0, le=3600)
    event_max_wait_hours: float = Field(24.0, gt=0, le=720)

    def needs_approval(self, amount_minor: int, currency: str) -> bool:
        """Whether a person must approve another attempt of that amount, in the currency's minor units."""
        limit = self.approval_above.get(currency, self.approval_above.get(DEFAULT_CURRENCY_KEY))
        return limit is not None and amount_minor > limit
