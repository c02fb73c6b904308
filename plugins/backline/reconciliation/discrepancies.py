"""What is different between our payments and the provider's: found a page at a time, by pandas, so that memory stays flat."""

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
    """In which way they differ."""

    MISSING_HERE = "missing_here"
    """The provider has a payment that we know nothing of."""
    MISSING_THERE = "missing_there"
    """We have one that the provider does not list."""
    AMOUNT = "amount"
    """Amounts, paid or refunded, differ."""
    CURRENCY = "currency"
    STATUS = "status"
    DUPLICATE = "duplicate"
    """The order's money is booked under another payment: this one was taken besides it."""


LOCAL_STATES: Mapping[str, PaymentState] = {
    "pending": PaymentState.PENDING,
    "requires_action": PaymentState.REQUIRES_ACTION,
    "captured": PaymentState.CAPTURED,
    "failed": PaymentState.FAILED,
    "abandoned": PaymentState.FAILED,
}
_LOCAL_COLUMNS = ("payment_id", "order_id", "reference", "amount_minor", "refunded_minor", "currency", "state")


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One difference; `amount_minor` and `currency` are the provider's where it has the payment."""

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
    """Whether the provider's word can be booked: it has the money of a payment that we still wait for, to the cent."""

    @property
    def summary(self) -> str:
        """Both sides in a few words."""
        return f"ours: {self.local_value}; theirs: {self.provider_value}"


def page_discrepancies(
    provider_payments: Sequence[ProviderPayment], matches: Sequence[Mapping[str, Any]], grace_cutoff: datetime
) -> list[Discrepancy]:
    """The differences of one page of the provider's list.

    `matches` are our payments, each with its `place` in the page, from 1. What was created after `settled` may be under
    way and is not judged.
    """
    import pandas as pd

    left = pd.DataFrame(
        {
            "place": range(1, len(provider_payments) + 1),
            "their_reference": [one.reference for one in provider_payments],
            "their_order": [one.order_id for one in provider_payments],
            "their_amount": [one.amount_minor for one in provider_payments],
            "their_refunded": [one.refunded_minor for one in provider_payments],
            "their_currency": [one.currency for one in provider_payments],
            "their_state": [one.state.value for one in provider_payments],
            "created_at": [one.created_at.astimezone(UTC) for one in provider_payments],
        }
    )
    # No numbers as floats: an id or an amount above 2^53 would change.
    left["their_order"] = pd.array([one.order_id for one in provider_payments], dtype="Int64")
    right = pd.DataFrame({name: [match[name] for match in matches] for name in ("place", *_LOCAL_COLUMNS)})
    right = right.astype(dict.fromkeys(("payment_id", "order_id", "amount_minor", "refunded_minor"), "Int64"))
    both = left.merge(right.astype({"place": "int64"}), on="place", how="left")
    both = both[both["created_at"] <= grace_cutoff].drop_duplicates("their_reference").copy()
    both["took_money"] = both["their_state"] == PaymentState.CAPTURED.value
    return list(
        _classify(both.sort_values(["took_money", "created_at", "their_reference"], ascending=[False, True, True]))
    )


def _classify(both: pd.DataFrame) -> Iterator[Discrepancy]:
    is_known = both["payment_id"].notna()
    is_same = both["reference"].isna() | (both["reference"] == both["their_reference"])
    # Several of theirs for one of ours that has no id yet: the first that took money is it.
    is_second = is_known & both["reference"].isna() & both.duplicated("payment_id")
    is_besides = is_known & (~is_same | is_second)
    took_money = both["took_money"]
    is_ours = is_known & ~is_besides
    other_currency = is_ours & (both["currency"] != both["their_currency"])
    other_paid = (both["amount_minor"] != both["their_amount"]).fillna(value=False).astype(bool)
    other_refunded = (both["refunded_minor"] != both["their_refunded"]).fillna(value=False).astype(bool)
    other_amount = is_ours & ~other_currency & (other_paid | (took_money & other_refunded))
    our_state = both["state"].map({ours: state.value for ours, state in LOCAL_STATES.items()})
    # Taken and given back whole before it was ever booked: what we gave up, and what they gave back, is the same.
    is_void = (our_state == PaymentState.FAILED.value) & (both["their_refunded"] == both["their_amount"])
    other_amount &= ~is_void
    other_state = is_ours & ~is_void & (our_state != both["their_state"])
    is_open = both["state"].isin(["pending", "requires_action", "failed"])
    # An order that was refunded there is no longer one whose money we may book.
    is_safe = (
        other_state & took_money & is_open & ~other_currency & ~other_paid & (both["their_refunded"] == 0)
    )  # fmt: skip
    masks = {
        DiscrepancyKind.MISSING_HERE: ~is_known,
        DiscrepancyKind.DUPLICATE: is_besides & took_money,
        DiscrepancyKind.CURRENCY: other_currency,
        DiscrepancyKind.AMOUNT: other_amount,
        DiscrepancyKind.STATUS: other_state,
    }
    for kind, mask in masks.items():
        for row, safe in zip(both[mask].to_dict("records"), is_safe[mask], strict=True):
            yield _discrepancy(kind, row, is_safe=bool(safe) and kind is DiscrepancyKind.STATUS)


def _discrepancy(kind: DiscrepancyKind, row: Mapping[Any, Any], *, is_safe: bool) -> Discrepancy:
    is_known = not _is_null(row["payment_id"])
    order = row["order_id"] if is_known else row["their_order"]
    ours, theirs = {
        DiscrepancyKind.MISSING_HERE: ("no such payment", row["their_state"]),
        DiscrepancyKind.DUPLICATE: (
            f"paid by {'another' if _is_null(row['reference']) else row['reference']}",
            "taken too",
        ),
        DiscrepancyKind.CURRENCY: (row["currency"], row["their_currency"]),
        DiscrepancyKind.AMOUNT: (
            _amounts(row["amount_minor"], row["refunded_minor"]),
            _amounts(row["their_amount"], row["their_refunded"]),
        ),
        DiscrepancyKind.STATUS: (row["state"], row["their_state"]),
    }[kind]
    return Discrepancy(
        kind=kind,
        reference=str(row["their_reference"]),
        payment_id=int(row["payment_id"]) if is_known else None,
        order_id=None if _is_null(order) else int(order),
        amount_minor=int(row["their_amount"]),
        currency=str(row["their_currency"]),
        created_at=row["created_at"].to_pydatetime(),
        local_value=str(ours),
        provider_value=str(theirs),
        is_safe_to_fix=is_safe,
    )


def missing_at_provider(row: Mapping[str, Any]) -> Discrepancy:
    """The difference of one of ours that the provider did not list."""
    return Discrepancy(
        kind=DiscrepancyKind.MISSING_THERE,
        reference=row["reference"],
        payment_id=row["payment_id"],
        order_id=row["order_id"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        created_at=row["created_at"],
        local_value=row["state"],
        provider_value="no such payment",
    )


def _amounts(amount: Any, refunded: Any) -> str:
    if _is_null(amount):
        return ""
    return f"{int(amount)}" + (f", {int(refunded)} refunded" if refunded else "")


def _is_null(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))
