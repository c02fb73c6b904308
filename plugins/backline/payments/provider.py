"""What a payment provider does for us, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol

from backline.payments.declines import Decline


@dataclass(frozen=True, slots=True)
class ChargeRequest:
    """One try to charge an order. Money is in the currency's minor units."""

    idempotency_key: str
    """Of the order, the same on every try: at the provider it names one payment, which is captured once."""
    attempt: int
    """Which try, from 1."""
    order_id: int
    order_number: str
    amount_minor: int
    currency: str
    method: str | None
    customer: str | None
    reference: str | None
    """The provider's id of the payment, if an earlier try left it."""
    is_resumed: bool
    """Whether this try was begun before, and how it ended is not known."""


@dataclass(frozen=True, slots=True)
class ChargeResult:
    """How a payment stands at the provider."""

    reference: str
    state: Literal["captured", "declined", "requires_action", "cancelled", "untried"]
    decline: Decline | None = None


class PaymentState(StrEnum):
    """How far a payment is, on either side."""

    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    CAPTURED = "captured"
    FAILED = "failed"
    """Declined or given up."""


PAYMENT_STATES: Mapping[str, PaymentState] = {
    **dict.fromkeys(("captured", "succeeded", "paid", "refunded", "partially refunded"), PaymentState.CAPTURED),
    **dict.fromkeys(("pending", "processing", "created", "authorized", "requires_capture"), PaymentState.PENDING),
    **dict.fromkeys(("requires_action", "requires_confirmation"), PaymentState.REQUIRES_ACTION),
    **dict.fromkeys(("failed", "canceled", "cancelled", "abandoned", "requires_payment_method"), PaymentState.FAILED),
}
"""States by the words of Stripe, Razorpay and ourselves."""


@dataclass(frozen=True, slots=True)
class ProviderPayment:
    """A payment as its provider lists it; amounts in the currency's minor units."""

    reference: str
    """The provider's id."""
    amount_minor: int
    currency: str
    """Its code of ISO 4217, in capitals."""
    state: PaymentState
    created_at: datetime
    refunded_minor: int = 0
    order_id: int | None = None
    """The order that we said it is for, in its metadata."""


class PaymentSource(Protocol):
    """Where a provider's payments are listed."""

    def list_payments(self, since: datetime, until: datetime) -> Iterator[ProviderPayment]:
        """Those created from `since` to before `until`, in any order, one page in memory at a time."""
        ...


class Provider(PaymentSource, Protocol):
    """A provider. Each method may be repeated: the same key never moves money twice.

    RetryableError when it may go well later and nothing is known of the outcome; PermanentError when the provider has
    refused the request itself, so that no money moved; Misconfigured when it cannot be asked.
    """

    @property
    def name(self) -> str:
        """As the app's payments call it: stripe, razorpay."""

    def charge(self, request: ChargeRequest) -> ChargeResult:
        """Charge, or find out how this try ended if it was made before."""

    def get_status(self, request: ChargeRequest) -> ChargeResult:
        """How the payment stands, without charging."""

    def cancel(self, request: ChargeRequest) -> ChargeResult:
        """Make sure that no money comes any more: `cancelled`, or `captured` if it has come."""

    def refund(self, reference: str, amount_minor: int, key: str) -> str:
        """Give so much of a captured payment back; returns the refund's id. Rejected if the provider will not."""
