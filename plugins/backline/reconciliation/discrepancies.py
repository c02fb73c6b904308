"""Finds discrepancies between local payments and the provider's, one page at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from backline.payments.provider import PAYMENT_STATES, PaymentState, ProviderPayment


class DiscrepancyKind(StrEnum):
    """What differs."""

    MISSING_HERE = "missing_here"
    """The provider has a payment that has no local one."""
    MISSING_THERE = "missing_there"
    """A local payment is not on the provider's statement."""
    AMOUNT = "amount"
    """Captured or refunded amounts differ."""
    CURRENCY = "currency"
    STATUS = "status"
    DUPLICATE = "duplicate"
    """The order was paid by another payment, and this one was captured too."""


FIXABLE_STATES = ("pending", "requires_action", "failed")


@dataclass(frozen=True, slots=True)
class LocalPayment:
    """A payment of the app."""

    payment_id: int
    order_id: int
    reference: str | None
    """The provider's id, if it is known."""
    amount_minor: int
    refunded_minor: int
    currency: str
    state: str
    created_at: datetime
    position: int = 0
    """Of the provider's payment that it matches, in its page, from 1."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One discrepancy; `amount_minor` and `currency` are the provider's if it has the payment."""

    kind: DiscrepancyKind
    reference: str
    payment_id: int | None
    order_id: int | None
    amount_minor: int
    currency: str
    created_at: datetime
    local_value: str
    provider_value: str
    is_safe_to_fix: bool = False
    """Whether the provider captured exactly the amount of a payment that is still open here."""

    @property
    def summary(self) -> str:
        """Both values in a few words."""
        return f"local: {self.local_value}; provider: {self.provider_value}"


def page_discrepancies(
    provider_payments: Sequence[ProviderPayment], matches: Sequence[LocalPayment], grace_cutoff: datetime
) -> Iterator[Discrepancy]:
    """The discrepancies of one page of the provider's statement and the local payments that match it.

    Payments created after `grace_cutoff` may still be in progress and are left out.
    """
    local_by_position = {match.position: match for match in matches}
    pairs: dict[str, tuple[ProviderPayment, LocalPayment | None]] = {}
    for position, payment in enumerate(provider_payments, 1):
        if payment.created_at <= grace_cutoff:
            pairs.setdefault(payment.reference, (payment, local_by_position.get(position)))
    matched_without_reference: set[int] = set()
    # The first payment that was captured for a local one without a reference is its match, any further one is a duplicate.
    for payment, local in sorted(pairs.values(), key=lambda pair: _matching_order(pair[0])):
        if local is None:
            yield _discrepancy(DiscrepancyKind.MISSING_HERE, payment, None, "no such payment", payment.state)
        elif local.reference == payment.reference or (
            local.reference is None and local.payment_id not in matched_without_reference
        ):
            if local.reference is None:
                matched_without_reference.add(local.payment_id)
            yield from _compare(payment, local)
        elif payment.state is PaymentState.CAPTURED:
            paid_by = f"paid by {local.reference or 'another'}"
            yield _discrepancy(DiscrepancyKind.DUPLICATE, payment, local, paid_by, "captured too")


def missing_at_provider(payment: LocalPayment) -> Discrepancy:
    """The discrepancy of a local payment that the provider did not list."""
    return _discrepancy(DiscrepancyKind.MISSING_THERE, payment, payment, payment.state, "no such payment")


def _matching_order(payment: ProviderPayment) -> tuple[bool, datetime, str]:
    return payment.state is not PaymentState.CAPTURED, payment.created_at, payment.reference


def _compare(payment: ProviderPayment, local: LocalPayment) -> Iterator[Discrepancy]:
    local_state, is_captured = PAYMENT_STATES.get(local.state), payment.state is PaymentState.CAPTURED
    same_currency, same_amount = local.currency == payment.currency, local.amount_minor == payment.amount_minor
    if not same_currency:
        yield _discrepancy(DiscrepancyKind.CURRENCY, payment, local, local.currency, payment.currency)
    if local_state is PaymentState.FAILED and payment.refunded_minor == payment.amount_minor:
        return  # captured and refunded in full before it was recorded here, where it was given up: both sides agree
    if same_currency and not (same_amount and (local.refunded_minor == payment.refunded_minor or not is_captured)):
        amounts = (_format_amounts(each.amount_minor, each.refunded_minor) for each in (local, payment))
        yield _discrepancy(DiscrepancyKind.AMOUNT, payment, local, *amounts)
    if local_state is not payment.state:
        # A payment with a refund must not pay its order.
        is_safe = (
            is_captured
            and local.state in FIXABLE_STATES
            and same_currency
            and same_amount
            and not payment.refunded_minor
        )
        yield _discrepancy(DiscrepancyKind.STATUS, payment, local, local.state, payment.state, is_safe=is_safe)


def _discrepancy(
    kind: DiscrepancyKind, payment: ProviderPayment | LocalPayment, local: LocalPayment | None, local_value: str,
    provider_value: str, *, is_safe: bool = False,
) -> Discrepancy:  # fmt: skip
    return Discrepancy(
        kind=kind,
        reference=payment.reference or "",
        payment_id=local.payment_id if local else None,
        order_id=local.order_id if local else payment.order_id,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        created_at=payment.created_at.astimezone(UTC),
        local_value=local_value,
        provider_value=str(provider_value),
        is_safe_to_fix=is_safe,
    )


def _format_amounts(amount: int, refunded: int) -> str:
    return f"{amount}, {refunded} refunded" if refunded else str(amount)
