"""What reconciliation needs of a provider: a list of its payments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class State(StrEnum):
    """How far a payment is, on either side."""

    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    CAPTURED = "captured"
    FAILED = "failed"
    """Declined or given up."""


@dataclass(frozen=True, slots=True)
class ProviderPayment:
    """A payment as its provider has it; amounts in the currency's smallest unit."""

    reference: str
    """The provider's id."""
    amount_minor: int
    currency: str
    """Its code of ISO 4217, in capitals."""
    state: State
    created_at: datetime
    refunded_minor: int = 0
    order_id: int | None = None
    """The order that we said it is for, in its metadata."""


class ProviderList(Protocol):
    """Where a provider's payments are listed."""

    def list_payments(self, since: datetime, until: datetime) -> Iterator[ProviderPayment]:
        """Those created from `since` to before `until`, in any order, one page in memory at a time."""
        ...
