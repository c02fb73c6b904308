"""The interface of payment providers, and the values that it exchanges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol

from backline.money import Money
from backline.payments.declines import Decline
from backline.payments.repository import Payment

PAYMENT_KEY_METADATA = "backline_payment"
"""The metadata in which a provider stores our key of a payment."""
REFUND_KEY_METADATA = "backline_refund"
"""The metadata in which a provider stores our key of a refund."""
RefundState = Literal["pending", "succeeded", "failed"]
STRIPE_REFUND_STATES: Mapping[str, RefundState] = {"succeeded": "succeeded", "failed": "failed", "canceled": "failed"}
"""https://docs.stripe.com/api/refunds/object; a refund in any other state is pending."""
RAZORPAY_REFUND_STATES: Mapping[str, RefundState] = {"processed": "succeeded", "failed": "failed"}
"""https://razorpay.com/docs/api/refunds/entity/; a refund in any other state is pending."""


@dataclass(frozen=True, slots=True)
class ChargeRequest:
    """One attempt to charge an order.

    The payment's idempotency key identifies it at the provider, which captures it once, whatever the attempt.
    """

    payment: Payment
    order_number: str
    attempt: int
    """Which attempt, from 1."""
    is_resumed: bool
    """Whether this attempt was started before, with an unknown result."""


@dataclass(frozen=True, slots=True)
class ChargeResult:
    """The state of a payment at the provider."""

    reference: str
    state: Literal["captured", "declined", "requires_action", "cancelled", "not_attempted"]
    decline: Decline | None = None
    captured: Money | None = None
    """What was captured, unless the state is another than `captured`."""


@dataclass(frozen=True, slots=True)
class ProviderRefund:
    """A refund at the provider, made by us or in its dashboard."""

    reference: str
    """The provider's id."""
    amount: Money
    state: RefundState
    key: str | None
    """Our key; None if it was not made by us."""


class PaymentState(StrEnum):
    """State of a payment, at the provider or in the app."""

    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    CAPTURED = "captured"
    FAILED = "failed"
    """Declined or abandoned."""


PAYMENT_STATES: Mapping[str, PaymentState] = {
    **dict.fromkeys(("captured", "succeeded", "paid", "refunded", "partially refunded"), PaymentState.CAPTURED),
    **dict.fromkeys(("pending", "processing", "created", "authorized", "requires_capture"), PaymentState.PENDING),
    **dict.fromkeys(("requires_action", "requires_confirmation"), PaymentState.REQUIRES_ACTION),
    **dict.fromkeys(("failed", "canceled", "cancelled", "abandoned", "requires_payment_method"), PaymentState.FAILED),
}
"""States by the names that Stripe, Razorpay and the app use."""


@dataclass(frozen=True, slots=True)
class ProviderPayment:
    """A payment in a provider's list; amounts in the currency's minor units (ISO 4217)."""

    reference: str
    """The provider's id."""
    amount_minor: int
    """What was captured, if it was captured; otherwise what was asked for."""
    currency: str
    """ISO 4217 code, in capitals."""
    state: PaymentState
    created_at: datetime
    refunded_minor: int = 0
    order_id: int | None = None
    """The order, from the metadata that we set."""


class PaymentSource(Protocol):
    """A list of a provider's payments."""

    def list_payments(self, since: datetime, until: datetime) -> Iterator[ProviderPayment]:
        """Payments created in [since, until), in any order, with one page in memory at a time."""
        ...


class Provider(PaymentSource, Protocol):
    """A payment provider. Each method can be repeated: the same key never moves money twice.

    RetryableError if the result is unknown and a later call may succeed; PermanentError if the provider refused the
    request itself, so that no money moved; Misconfigured if it cannot be called.
    """

    @property
    def name(self) -> str:
        """Its name in the app's payments: stripe, razorpay."""

    def charge(self, request: ChargeRequest) -> ChargeResult:
        """Charge, or return the result of this attempt if it was made before."""

    def get_status(self, request: ChargeRequest) -> ChargeResult:
        """The payment's state, without charging."""

    def cancel(self, request: ChargeRequest) -> ChargeResult:
        """Prevent any further capture: `cancelled`, or `captured` if the payment was captured already."""

    def refund(self, reference: str, amount: Money, key: str) -> ProviderRefund:
        """Refund a part of a captured payment. Rejected if the provider refuses."""

    def list_refunds(self, reference: str) -> Sequence[ProviderRefund]:
        """All refunds of a payment, in any order."""
