"""What a payment provider does for us, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from backline.payments.declines import Decline


@dataclass(frozen=True, slots=True)
class Charge:
    """One try to charge an order. Money is in the currency's minor units."""

    key: str
    """Of the order, the same on every try: at the provider it names one payment, which is captured once."""
    number: int
    """Which try, from 1."""
    order_id: int
    order_number: str
    amount_minor: int
    currency: str
    method: str | None
    customer: str | None
    reference: str | None
    """The provider's id of the payment, if an earlier try left it."""
    resumed: bool
    """Whether this try was begun before, and how it ended is not known."""


@dataclass(frozen=True, slots=True)
class Charged:
    """How a payment stands at the provider."""

    reference: str
    state: Literal["captured", "declined", "requires_action", "cancelled", "untried"]
    decline: Decline | None = None


@dataclass(frozen=True, slots=True)
class ProviderPayment:
    """One payment as the provider lists it."""

    reference: str
    key: str | None
    """Ours, if we made it."""
    amount_minor: int
    currency: str
    state: str
    """The provider's own word."""
    created_at: datetime


class Provider(Protocol):
    """A provider. Each method may be repeated: the same key never moves money twice.

    RetryableError when it may go well later and nothing is known of the outcome; PermanentError when the provider has
    refused the request itself, so that no money moved; Misconfigured when it cannot be asked.
    """

    @property
    def name(self) -> str:
        """As the app's payments call it: stripe, razorpay."""

    def charge(self, wanted: Charge) -> Charged:
        """Charge, or find out how this try ended if it was made before."""

    def look(self, wanted: Charge) -> Charged:
        """How the payment stands, without charging."""

    def cancel(self, wanted: Charge) -> Charged:
        """Make sure that no money comes any more: `cancelled`, or `captured` if it has come."""

    def refund(self, reference: str, amount_minor: int, key: str) -> str:
        """Give so much of a captured payment back; returns the refund's id. Rejected if the provider will not."""

    def list_payments(self, since: datetime, until: datetime) -> Iterator[ProviderPayment]:
        """The payments made in [since, until)."""
