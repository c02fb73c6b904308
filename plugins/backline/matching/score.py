"""How well an offer serves a purchase order: a score of four parts, each from 0 to `SCORE_SCALE`.

All in whole numbers, so that the same input gives the same score on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from backline.matching.settings import Weights

SCORE_SCALE = 100_000
"""A score of 1; scores are whole numbers of hundred-thousandths."""
COMPONENTS = ("price", "lead_time", "quality", "capacity")


@dataclass(frozen=True, slots=True)
class PurchaseOrder:
    """A purchase order: so many pieces of one product, from one offer, by a day."""

    id: int
    product_id: int
    quantity: int
    region: str
    """Where it is wanted: ISO 3166-1 alpha-2."""
    currency: str
    days_left: int
    """Until the day that it is needed by; negative when that is over."""
    max_price_minor: int | None = None
    """For one piece."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a supplier sells a product for, and what is left of it."""

    id: int
    supplier_id: int
    product_id: int
    unit_price_minor: int
    currency: str
    min_quantity: int
    remaining: int
    """Pieces that are not allocated."""
    lead_days: int
    regions: frozenset[str]
    quality: int
    """Share of the supplier's deliveries without complaint, in thousandths."""
    capacity: int
    """Pieces that the supplier can have in hand at once, over all its offers."""
    free_capacity: int
    """Of these, what is not taken by orders under way."""


def failed_constraints(order: PurchaseOrder, offer: Offer) -> list[str]:
    """What speaks against it for good, in the order in which it is told; empty if the offer can serve the order."""
    checks = {
        "product": offer.product_id == order.product_id,
        "currency": offer.currency == order.currency,
        "region": order.region in offer.regions,
        "deadline": offer.lead_days <= order.days_left,
        "price": order.max_price_minor is None or offer.unit_price_minor <= order.max_price_minor,
        "least quantity": offer.min_quantity <= order.quantity,
        "quantity": order.quantity <= offer.remaining,
        "capacity": order.quantity <= offer.free_capacity,
    }
    return [name for name, holds in checks.items() if not holds]


def score_components(order: PurchaseOrder, offer: Offer, cheapest_minor: int) -> dict[str, int]:
    """The parts of the score of an offer that fits. `cheapest_minor`: the lowest price of those that fit.

    price: the cheapest is 1, twice its price one half. lead_time: the share of the days that would be left over.
    quality: the supplier's. capacity: the share of the supplier's capacity that would stay free.
    """
    return {
        "price": SCORE_SCALE * cheapest_minor // offer.unit_price_minor,
        "lead_time": SCORE_SCALE * (order.days_left + 1 - offer.lead_days) // (order.days_left + 1),
        "quality": SCORE_SCALE // 1000 * offer.quality,
        "capacity": SCORE_SCALE * (offer.free_capacity - order.quantity) // offer.capacity,
    }


def weighted_score(given: dict[str, int], weights: Weights) -> int:
    """The score: its parts by their weights."""
    return sum(int(getattr(weights, name)) * given[name] for name in COMPONENTS) // 100


def to_decimal(score: int) -> Decimal:
    """A score from 0 to 1, exactly, with five places."""
    return Decimal(score).scaleb(-5)
