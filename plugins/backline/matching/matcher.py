"""Who gets what: every order the best offer that no better pair has taken.

All pairs of an order and an offer that fits are gone through from the highest score down; of equal scores the older order
comes first, then the older offer. A pair is taken if the order still has none, and the offer and its supplier's capacity
still have room for all of it. So no order could be moved to an offer that it scores higher with, other than by taking it
from a pair that comes before it: the outcome is stable. It depends on nothing but the orders, the offers and the weights.

The pairs are not all listed: each order holds its offers, best first, and only its best one with room waits in a queue.
Room only shrinks, so an offer that is passed over stays so.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backline.matching.score import SCORE_SCALE, Offer, PurchaseOrder, failed_constraints, score_components
from backline.matching.settings import Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    IntArray = NDArray[np.integer[Any]]
    BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Match:
    """An order and the offer that serves it."""

    order: PurchaseOrder
    offer: Offer
    score: int
    score_components: dict[str, int]
    cheapest_minor: int
    """The lowest price of the offers that fit."""
    rank: int
    """Of the offer among those that fit the order, from 1: those before it have gone to pairs of higher scores."""
    eligible_offers: int
    """How many offers fit the order."""


@dataclass(frozen=True, slots=True)
class UnmatchedOrder:
    """An order that no offer serves."""

    order: PurchaseOrder
    eligible_offers: int
    """How many offers fit it and have gone to pairs of higher scores."""


@dataclass(frozen=True, slots=True)
class MatchResult:
    """Each order once, by id."""

    matches: Sequence[Match]
    unmatched: Sequence[UnmatchedOrder]


class OfferTable:
    """The offers of one product in one currency, as columns; what is left of them shrinks."""

    def __init__(self, offers: Sequence[Offer], suppliers: dict[int, int]) -> None:
        import numpy as np

        def column(name: str) -> IntArray:
            return np.array([getattr(offer, name) for offer in offers], dtype=np.int64)

        self.offers = offers
        self.price, self.lead_days, self.min_quantity = (
            column("unit_price_minor"),
            column("lead_days"),
            column("min_quantity"),
        )
        self.quality, self.capacity = column("quality"), column("capacity")
        self.initial_remaining, self.initial_free_capacity = column("left"), column("free")
        self.remaining = self.initial_remaining.copy()
        self.supplier: IntArray = np.array([suppliers[offer.supplier_id] for offer in offers], dtype=np.int64)
        self._regions: dict[str, BoolArray] = {}

    def rank(self, purchase_order: PurchaseOrder, weights: Weights) -> _Ranking:
        """The offers that fit, best first."""
        import numpy as np

        fits = (
            self._delivers_to(purchase_order.region)
            & (self.lead_days <= purchase_order.days_left)
            & (self.min_quantity <= purchase_order.quantity)
            & (self.initial_remaining >= purchase_order.quantity)
            & (self.initial_free_capacity >= purchase_order.quantity)
        )
        if purchase_order.max_price_minor is not None:
            fits &= self.price <= purchase_order.max_price_minor
        [found] = np.nonzero(fits)
        if not found.size:
            return _Ranking(purchase_order, self, found, found, 0)
        price = self.price[found]
        cheapest = int(price.min())
        days = purchase_order.days_left + 1
        # As score.parts and score.total have it, for all at once; a test holds the two equal.
        score = (
            weights.price * (SCORE_SCALE * cheapest // price)
            + weights.lead_time * (SCORE_SCALE * (days - self.lead_days[found]) // days)
            + weights.quality * (SCORE_SCALE // 1000 * self.quality[found])
            + weights.capacity
            * (SCORE_SCALE * (self.initial_free_capacity[found] - purchase_order.quantity) // self.capacity[found])
        ) // 100
        order = np.argsort(-score, kind="stable")  # offers stand by id, so equal scores do
        return _Ranking(purchase_order, self, found[order].astype(np.int32), score[order].astype(np.int32), cheapest)

    def _delivers_to(self, region: str) -> BoolArray:
        import numpy as np

        if region not in self._regions:
            self._regions[region] = np.array([region in offer.regions for offer in self.offers], dtype=np.bool_)
        return self._regions[region]


class _Ranking:
    """One order's offers, best first, and how far it has come."""

    def __init__(
        self, wanted: PurchaseOrder, shelf: OfferTable, places: IntArray, scores: IntArray, cheapest: int
    ) -> None:
        self.order, self.offer_table, self.offer_indexes, self.scores, self.cheapest = (
            wanted,
            shelf,
            places,
            scores,
            cheapest,
        )
        self.position = 0

    def advance(self, free: IntArray) -> bool:
        """Go on to the best offer that has room, from where it stands; False if there is none."""
        places, quantity = self.offer_indexes[self.position :], self.order.quantity
        room = (self.offer_table.remaining[places] >= quantity) & (free[self.offer_table.supplier[places]] >= quantity)
        step = int(room.argmax()) if room.size else 0
        self.position += step
        return bool(room.size) and bool(room[step])

    def queue_key(self) -> tuple[int, int, int]:
        """What it is queued by: the highest score, the oldest order, the oldest offer."""
        return -int(self.scores[self.position]), self.order.id, self.offer.id

    @property
    def offer_index(self) -> int:
        return int(self.offer_indexes[self.position])

    @property
    def offer(self) -> Offer:
        return self.offer_table.offers[self.offer_index]

    def allocate(self, free: IntArray) -> Match:
        """Give the order the offer that it stands at."""
        self.offer_table.remaining[self.offer_index] -= self.order.quantity
        free[self.offer_table.supplier[self.offer_index]] -= self.order.quantity
        return Match(
            self.order,
            self.offer,
            int(self.scores[self.position]),
            score_components(self.order, self.offer, self.cheapest),
            self.cheapest,
            self.position + 1,
            len(self.offer_indexes),
        )


def match(orders: Iterable[PurchaseOrder], offers: Iterable[Offer], weights: Weights) -> MatchResult:
    """Match orders to offers; in whatever order they are given, the outcome is the same.

    Offers of one supplier must agree in its capacity and in what of it is free.
    """
    import numpy as np

    stock = sorted(offers, key=lambda offer: offer.id)
    suppliers = {supplier: place for place, supplier in enumerate(sorted({offer.supplier_id for offer in stock}))}
    free: IntArray = np.zeros(len(suppliers), dtype=np.int64)
    by_product: dict[int, list[Offer]] = {}
    for offer in stock:
        free[suppliers[offer.supplier_id]] = offer.free_capacity
        by_product.setdefault(offer.product_id, []).append(offer)
    shelves: dict[tuple[int, str], OfferTable] = {}
    rankings: dict[int, _Ranking] = {}
    queue, unserved = [], []
    for wanted in orders:
        key = (wanted.product_id, wanted.currency)
        if key not in shelves:
            shelves[key] = OfferTable(
                [offer for offer in by_product.get(wanted.product_id, []) if offer.currency == wanted.currency],
                suppliers,
            )
        ranking = shelves[key].rank(wanted, weights)
        if ranking.advance(free):
            rankings[wanted.id] = ranking
            queue.append(ranking.queue_key())
        else:
            unserved.append(UnmatchedOrder(wanted, len(ranking.offer_indexes)))
    heapq.heapify(queue)
    matches = []
    while queue:
        _, order_id, _ = heapq.heappop(queue)
        ranking = rankings[order_id]
        stood_at = ranking.position
        if not ranking.advance(free):
            unserved.append(UnmatchedOrder(ranking.order, len(ranking.offer_indexes)))
        elif ranking.position == stood_at:
            matches.append(ranking.allocate(free))
        else:
            heapq.heappush(queue, ranking.queue_key())
    return MatchResult(
        sorted(matches, key=lambda match: match.order.id), sorted(unserved, key=lambda each: each.order.id)
    )


def rejection_reasons(order: PurchaseOrder, offers: Iterable[Offer]) -> dict[str, int]:
    """What speaks against the offers of an order's product, with how many of them: of each the first reason."""
    of_product = (offer for offer in offers if offer.product_id == order.product_id)
    return dict(Counter(why[0] for offer in of_product if (why := failed_constraints(order, offer))))
