"""The score of an offer for a purchase order: four components from 0 to `SCORE_SCALE`.

All are integers, so the same input has the same score on every machine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal

SCORE_SCALE = 100_000
"""A score of 1."""
COMPONENTS = ("price", "lead_time", "quality", "capacity")


@dataclass(frozen=True, slots=True)
class PurchaseOrder:
    """An order for a quantity of one product, to be served by one offer."""

    id: int
    product_id: int
    quantity: int
    region: str
    """Where it is delivered to: ISO 3166-1 alpha-2."""
    currency: str
    days_left: int
    """Until the deadline; negative after it."""
    max_price_minor: int | None = None
    """Per piece."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A supplier's offer of a product, and what remains of it."""

    id: int
    supplier_id: int
    product_id: int
    unit_price_minor: int
    currency: str
    min_quantity: int
    remaining: int
    """Pieces that are not allocated."""
    lead_days: int
    regions: Collection[str]
    quality: int
    """Share of the supplier's deliveries without complaint, in thousandths."""
    capacity: int
    """Pieces that the supplier can work on at a time, over all its offers."""
    free_capacity: int
    """Capacity without the pieces that are allocated and not yet received."""


def failed_constraints(order: PurchaseOrder, offer: Offer) -> list[str]:
    """The constraints that the offer does not meet, in a fixed order; empty if it is eligible."""
    checks = {
        "product": offer.product_id == order.product_id,
        "currency": offer.currency == order.currency,
        "region": order.region in offer.regions,
        "deadline": offer.lead_days <= order.days_left,
        "price": order.max_price_minor is None or offer.unit_price_minor <= order.max_price_minor,
        "minimum quantity": offer.min_quantity <= order.quantity,
        "quantity": order.quantity <= offer.remaining,
        "capacity": order.quantity <= offer.free_capacity,
    }
    return [name for name, holds in checks.items() if not holds]


def score_components(order: PurchaseOrder, offer: Offer, cheapest_minor: int) -> dict[str, int]:
    """The components of an eligible offer's score. `cheapest_minor`: the lowest price of all eligible offers.

    price: 1 for the cheapest, one half for twice its price. lead_time: the share of the remaining days that it leaves.
    quality: the supplier's. capacity: the share of the supplier's capacity that stays free.
    """
    return {
        "price": SCORE_SCALE * cheapest_minor // offer.unit_price_minor,
        "lead_time": SCORE_SCALE * (order.days_left + 1 - offer.lead_days) // (order.days_left + 1),
        "quality": SCORE_SCALE // 1000 * offer.quality,
        "capacity": SCORE_SCALE * (offer.free_capacity - order.quantity) // offer.capacity,
    }


def to_decimal(score: int) -> Decimal:
    """A score from 0 to 1, exact, with five decimal places."""
    return Decimal(score).scaleb(-5)
