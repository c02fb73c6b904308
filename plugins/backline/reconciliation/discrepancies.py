"""Finds discrepancies between local payments and the provider's, one page at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from backline.payments.provider import PaymentState, ProviderPayment

if TYPE_CHECKING:
    import pandas as pd


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


LOCAL_STATES: Mapping[str, PaymentState] = {
    "pending": PaymentState.PENDING,
    "requires_action": PaymentState.REQUIRES_ACTION,
    "captured": PaymentState.CAPTURED,
    "failed": PaymentState.FAILED,
    "abandoned": PaymentState.FAILED,
}
FIXABLE_STATES = ("pending", "requires_action", "failed")
_LOCAL_COLUMNS = ("payment_id", "order_id", "reference", "amount_minor", "refunded_minor", "currency", "state")
_INTEGER_COLUMNS = ("payment_id", "order_id", "amount_minor", "refunded_minor")


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
) -> list[Discrepancy]:
    """The discrepancies of one page of the provider's statement and the local payments that match it.

    Payments created after `grace_cutoff` may still be in progress and are left out.
    """
    import pandas as pd

    # Nullable integers: as floats, ids and amounts above 2^53 would change.
    provider = pd.DataFrame(
        {
            "position": range(1, len(provider_payments) + 1),
            "provider_reference": [payment.reference for payment in provider_payments],
            "provider_order": pd.array([payment.order_id for payment in provider_payments], dtype="Int64"),
            "provider_amount": [payment.amount_minor for payment in provider_payments],
            "provider_refunded": [payment.refunded_minor for payment in provider_payments],
            "provider_currency": [payment.currency for payment in provider_payments],
            "provider_state": [payment.state.value for payment in provider_payments],
            "created_at": [payment.created_at.astimezone(UTC) for payment in provider_payments],
        }
    )
    local = pd.DataFrame({name: [getattr(match, name) for match in matches] for name in ("position", *_LOCAL_COLUMNS)})
    local = local.astype({"position": "int64", **dict.fromkeys(_INTEGER_COLUMNS, "Int64")})
    pairs = provider.merge(local, on="position", how="left")
    pairs = pairs[pairs["created_at"] <= grace_cutoff].drop_duplicates("provider_reference").copy()
    pairs["is_captured"] = pairs["provider_state"] == PaymentState.CAPTURED.value
    # Captured ones first: the first that was captured for a local payment without an id is its match.
    return list(
        _classify(pairs.sort_values(["is_captured", "created_at", "provider_reference"], ascending=[False, True, True]))
    )


def missing_at_provider(payment: LocalPayment) -> Discrepancy:
    """The discrepancy of a local payment that the provider did not list."""
    return Discrepancy(
        kind=DiscrepancyKind.MISSING_THERE,
        reference=payment.reference or "",
        payment_id=payment.payment_id,
        order_id=payment.order_id,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        created_at=payment.created_at,
        local_value=payment.state,
        provider_value="no such payment",
    )


def _classify(pairs: pd.DataFrame) -> Iterator[Discrepancy]:
    is_known = pairs["payment_id"].notna()
    has_same_reference = pairs["reference"].isna() | (pairs["reference"] == pairs["provider_reference"])
    is_second_match = is_known & pairs["reference"].isna() & pairs.duplicated("payment_id")
    is_additional = is_known & (~has_same_reference | is_second_match)
    is_match = is_known & ~is_additional
    is_captured = pairs["is_captured"]
    currency_differs = is_match & (pairs["currency"] != pairs["provider_currency"])
    captured_differs = _differs(pairs["amount_minor"], pairs["provider_amount"])
    refunded_differs = _differs(pairs["refunded_minor"], pairs["provider_refunded"])
    local_state = pairs["state"].map({local: state.value for local, state in LOCAL_STATES.items()})
    # Captured and refunded in full before it was recorded here, where it was given up: both sides agree.
    is_void = (local_state == PaymentState.FAILED.value) & (pairs["provider_refunded"] == pairs["provider_amount"])
    amount_differs = is_match & ~currency_differs & ~is_void & (captured_differs | (is_captured & refunded_differs))
    state_differs = is_match & ~is_void & (local_state != pairs["provider_state"])
    # A payment with a refund must not pay its order.
    is_safe = (
        state_differs & is_captured & pairs["state"].isin(FIXABLE_STATES) & ~currency_differs & ~captured_differs
        & (pairs["provider_refunded"] == 0)
    )  # fmt: skip
    masks = {
        DiscrepancyKind.MISSING_HERE: ~is_known,
        DiscrepancyKind.DUPLICATE: is_additional & is_captured,
        DiscrepancyKind.CURRENCY: currency_differs,
        DiscrepancyKind.AMOUNT: amount_differs,
        DiscrepancyKind.STATUS: state_differs,
    }
    for kind, mask in masks.items():
        for row, safe in zip(pairs[mask].to_dict("records"), is_safe[mask], strict=True):
            yield _discrepancy(kind, row, is_safe=bool(safe) and kind is DiscrepancyKind.STATUS)


def _discrepancy(kind: DiscrepancyKind, row: Mapping[Any, Any], *, is_safe: bool) -> Discrepancy:
    is_known = not _is_null(row["payment_id"])
    order = row["order_id"] if is_known else row["provider_order"]
    local, provider = {
        DiscrepancyKind.MISSING_HERE: ("no such payment", row["provider_state"]),
        DiscrepancyKind.DUPLICATE: (
            f"paid by {'another' if _is_null(row['reference']) else row['reference']}",
            "captured too",
        ),
        DiscrepancyKind.CURRENCY: (row["currency"], row["provider_currency"]),
        DiscrepancyKind.AMOUNT: (
            _format_amounts(row["amount_minor"], row["refunded_minor"]),
            _format_amounts(row["provider_amount"], row["provider_refunded"]),
        ),
        DiscrepancyKind.STATUS: (row["state"], row["provider_state"]),
    }[kind]
    return Discrepancy(
        kind=kind,
        reference=str(row["provider_reference"]),
        payment_id=int(row["payment_id"]) if is_known else None,
        order_id=None if _is_null(order) else int(order),
        amount_minor=int(row["provider_amount"]),
        currency=str(row["provider_currency"]),
        created_at=row["created_at"].to_pydatetime(),
        local_value=str(local),
        provider_value=str(provider),
        is_safe_to_fix=is_safe,
    )


def _differs(local: pd.Series[Any], provider: pd.Series[Any]) -> pd.Series[bool]:
    return (local != provider).fillna(value=False).astype(bool)


def _format_amounts(amount: Any, refunded: Any) -> str:
    if _is_null(amount):
        return ""
    return f"{int(amount)}" + (f", {int(refunded)} refunded" if refunded else "")


def _is_null(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))
