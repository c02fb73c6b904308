"""Stable matching: each order gets the best offer that no better pair has taken.

All eligible pairs of an order and an offer are processed from the highest score down; with equal scores the older order
comes first, then the older offer. A pair is matched if its order has no offer yet and the offer and its supplier's capacity
have room for the whole quantity. So an order could get an offer with a higher score only from a pair that comes earlier: the
result is stable. It depends on nothing but the orders, the offers and the weights.

The pairs are not all listed: each order has its offers ranked, and only its best one with room is in a queue. Room only
shrinks, so an offer that was passed over never has room again.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backline.matching.score import SCORE_SCALE, Offer, PurchaseOrder, failed_constraints, score_components
from backline.matching.settings import Weights

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
    """The lowest price of the eligible offers."""
    rank: int
    """Of the offer among the eligible ones, from 1: better ones went to pairs with higher scores."""
    eligible_offers: int


@dataclass(frozen=True, slots=True)
class UnmatchedOrder:
    """An order without an offer."""

    order: PurchaseOrder
    eligible_offers: int
    """All of which went to pairs with higher scores."""


@dataclass(frozen=True, slots=True)
class MatchResult:
    """Each order once, by id."""

    matches: Sequence[Match]
    unmatched: Sequence[UnmatchedOrder]


class OfferTable:
    """The offers of one product in one currency, as columns; `remaining` shrinks."""

    def __init__(self, offers: Sequence[Offer], suppliers: dict[int, int]) -> None:
        def column(name: str) -> IntArray:
            return np.array([getattr(offer, name) for offer in offers], dtype=np.int64)

        self.offers = offers
        self.price, self.lead_days = column("unit_price_minor"), column("lead_days")
        self.min_quantity, self.quality = column("min_quantity"), column("quality")
        self.capacity, self.initial_free_capacity = column("capacity"), column("free_capacity")
        self.initial_remaining = column("remaining")
        self.remaining = self.initial_remaining.copy()
        self.supplier: IntArray = np.array([suppliers[offer.supplier_id] for offer in offers], dtype=np.int64)
        self._regions: dict[str, BoolArray] = {}

    def rank(self, order: PurchaseOrder, weights: Weights) -> _Ranking:
        """The eligible offers, best first."""
        eligible = (
            self._delivers_to(order.region)
            & (self.lead_days <= order.days_left)
            & (self.min_quantity <= order.quantity)
            & (self.initial_remaining >= order.quantity)
            & (self.initial_free_capacity >= order.quantity)
        )
        if order.max_price_minor is not None:
            eligible &= self.price <= order.max_price_minor
        [found] = np.nonzero(eligible)
        if not found.size:
            return _Ranking(order, self, found, found, 0)
        price = self.price[found]
        cheapest = int(price.min())
        days = order.days_left + 1
        # The weighted sum of score_components, for all offers at once; a test compares the two.
        score = (
            weights.price * (SCORE_SCALE * cheapest // price)
            + weights.lead_time * (SCORE_SCALE * (days - self.lead_days[found]) // days)
            + weights.quality * (SCORE_SCALE // 1000 * self.quality[found])
            + weights.capacity
            * (SCORE_SCALE * (self.initial_free_capacity[found] - order.quantity) // self.capacity[found])
        ) // 100
        best_first = np.argsort(-score, kind="stable")  # equal scores stay ordered by id
        return _Ranking(order, self, found[best_first].astype(np.int32), score[best_first].astype(np.int32), cheapest)

    def _delivers_to(self, region: str) -> BoolArray:
        if region not in self._regions:
            self._regions[region] = np.array([region in offer.regions for offer in self.offers], dtype=np.bool_)
        return self._regions[region]


@dataclass(slots=True)
class _Ranking:
    """One order's offers, best first, and the position of the best one that may have room."""

    order: PurchaseOrder
    table: OfferTable
    offer_indexes: IntArray
    scores: IntArray
    cheapest_minor: int
    position: int = 0

    def advance(self, free: IntArray) -> bool:
        """Move on to the best offer with room; False if there is none."""
        indexes, quantity = self.offer_indexes[self.position :], self.order.quantity
        room = (self.table.remaining[indexes] >= quantity) & (free[self.table.supplier[indexes]] >= quantity)
        step = int(room.argmax()) if room.size else 0
        self.position += step
        return bool(room.size) and bool(room[step])

    @property
    def offer(self) -> Offer:
        """The offer at the position."""
        return self.table.offers[int(self.offer_indexes[self.position])]

    def queue_key(self) -> tuple[int, int, int]:
        """Highest score first, then the oldest order, then the oldest offer."""
        return -int(self.scores[self.position]), self.order.id, self.offer.id

    def allocate(self, free: IntArray) -> Match:
        """Match the order with the offer at the position."""
        index = int(self.offer_indexes[self.position])
        self.table.remaining[index] -= self.order.quantity
        free[self.table.supplier[index]] -= self.order.quantity
        return Match(
            order=self.order,
            offer=self.offer,
            score=int(self.scores[self.position]),
            score_components=score_components(self.order, self.offer, self.cheapest_minor),
            cheapest_minor=self.cheapest_minor,
            rank=self.position + 1,
            eligible_offers=len(self.offer_indexes),
        )


def match(orders: Iterable[PurchaseOrder], offers: Iterable[Offer], weights: Weights) -> MatchResult:
    """Match orders with offers; the result does not depend on the order of the input.

    Offers of one supplier must have the same capacity and free capacity.
    """
    by_id = sorted(offers, key=lambda offer: offer.id)
    suppliers = {supplier: index for index, supplier in enumerate(sorted({offer.supplier_id for offer in by_id}))}
    free: IntArray = np.zeros(len(suppliers), dtype=np.int64)
    by_market: dict[tuple[int, str], list[Offer]] = {}
    for offer in by_id:
        free[suppliers[offer.supplier_id]] = offer.free_capacity
        by_market.setdefault((offer.product_id, offer.currency), []).append(offer)
    tables: dict[tuple[int, str], OfferTable] = {}
    rankings: dict[int, _Ranking] = {}
    matches: list[Match] = []
    unmatched: list[UnmatchedOrder] = []
    queue = []
    for order in orders:
        market = (order.product_id, order.currency)
        if market not in tables:
            tables[market] = OfferTable(by_market.get(market, []), suppliers)
        ranking = rankings[order.id] = tables[market].rank(order, weights)
        if ranking.advance(free):
            queue.append(ranking.queue_key())
        else:
            unmatched.append(UnmatchedOrder(order, len(ranking.offer_indexes)))
    heapq.heapify(queue)
    while queue:
        _, order_id, _ = heapq.heappop(queue)
        ranking = rankings[order_id]
        position = ranking.position
        if not ranking.advance(free):
            unmatched.append(UnmatchedOrder(ranking.order, len(ranking.offer_indexes)))
        elif ranking.position == position:
            matches.append(ranking.allocate(free))
        else:
            heapq.heappush(queue, ranking.queue_key())
    return MatchResult(
        sorted(matches, key=lambda match: match.order.id), sorted(unmatched, key=lambda each: each.order.id)
    )


def rejection_reasons(order: PurchaseOrder, offers: Iterable[Offer]) -> dict[str, int]:
    """How many offers of the order's product fail each constraint; of each offer the first one counts."""
    of_product = (offer for offer in offers if offer.product_id == order.product_id)
    return dict(Counter(failed[0] for offer in of_product if (failed := failed_constraints(order, offer))))
