"""How well an offer serves a purchase order: a score of four parts, each from 0 to `ONE`.

All in whole numbers, so that the same input gives the same score on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from backline.matching.settings import Weights

ONE = 100_000
"""A score of 1; scores are whole numbers of hundred-thousandths."""
PARTS = ("price", "lead_time", "quality", "capacity")


@dataclass(frozen=True, slots=True)
class Wanted:
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
    left: int
    """Pieces that are not allocated."""
    lead_days: int
    regions: frozenset[str]
    quality: int
    """Share of the supplier's deliveries without complaint, in thousandths."""
    capacity: int
    """Pieces that the supplier can have in hand at once, over all its offers."""
    free: int
    """Of these, what is not taken by orders under way."""


def unfit(wanted: Wanted, offer: Offer) -> list[str]:
    """What speaks against it for good, in the order in which it is told; empty if the offer can serve the order."""
    checks = {
        "product": offer.product_id == wanted.product_id,
        "currency": offer.currency == wanted.currency,
        "region": wanted.region in offer.regions,
        "deadline": offer.lead_days <= wanted.days_left,
        "price": wanted.max_price_minor is None or offer.unit_price_minor <= wanted.max_price_minor,
        "least quantity": offer.min_quantity <= wanted.quantity,
        "quantity": wanted.quantity <= offer.left,
        "capacity": wanted.quantity <= offer.free,
    }
    return [name for name, holds in checks.items() if not holds]


def parts(wanted: Wanted, offer: Offer, cheapest_minor: int) -> dict[str, int]:
    """The parts of the score of an offer that fits. `cheapest_minor`: the lowest price of those that fit.

    price: the cheapest is 1, twice its price one half. lead_time: the share of the days that would be left over.
    quality: the supplier's. capacity: the share of the supplier's capacity that would stay free.
    """
    return {
        "price": ONE * cheapest_minor // offer.unit_price_minor,
        "lead_time": ONE * (wanted.days_left + 1 - offer.lead_days) // (wanted.days_left + 1),
        "quality": ONE // 1000 * offer.quality,
        "capacity": ONE * (offer.free - wanted.quantity) // offer.capacity,
    }


def total(given: dict[str, int], weights: Weights) -> int:
    """The score: its parts by their weights."""
    return sum(int(getattr(weights, name)) * given[name] for name in PARTS) // 100


def written(score: int) -> Decimal:
    """A score from 0 to 1, exactly, with five places."""
    return Decimal(score).scaleb(-5)
