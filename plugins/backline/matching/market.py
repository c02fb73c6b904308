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

from backline.matching.score import ONE, Offer, Wanted, parts, unfit
from backline.matching.settings import Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.integer[Any]]
    Truths = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Match:
    """An order and the offer that serves it."""

    wanted: Wanted
    offer: Offer
    score: int
    parts: dict[str, int]
    cheapest_minor: int
    """The lowest price of the offers that fit."""
    place: int
    """Of the offer among those that fit the order, from 1: those before it have gone to pairs of higher scores."""
    fitting: int
    """How many offers fit the order."""


@dataclass(frozen=True, slots=True)
class Unserved:
    """An order that no offer serves."""

    wanted: Wanted
    fitting: int
    """How many offers fit it and have gone to pairs of higher scores."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Each order once, by id."""

    matches: Sequence[Match]
    unserved: Sequence[Unserved]


class _Shelf:
    """The offers of one product in one currency, as columns; what is left of them shrinks."""

    def __init__(self, offers: Sequence[Offer], suppliers: dict[int, int]) -> None:
        import numpy as np

        def column(name: str) -> Numbers:
            return np.array([getattr(offer, name) for offer in offers], dtype=np.int64)

        self.offers = offers
        self.price, self.lead, self.least = column("unit_price_minor"), column("lead_days"), column("min_quantity")
        self.quality, self.capacity = column("quality"), column("capacity")
        self.left_at_first, self.free_at_first = column("left"), column("free")
        self.left = self.left_at_first.copy()
        self.supplier: Numbers = np.array([suppliers[offer.supplier_id] for offer in offers], dtype=np.int64)
        self._regions: dict[str, Truths] = {}

    def ranked(self, wanted: Wanted, weights: Weights) -> _Ranking:
        """The offers that fit, best first."""
        import numpy as np

        fits = (
            self._delivers_to(wanted.region)
            & (self.lead <= wanted.days_left)
            & (self.least <= wanted.quantity)
            & (self.left_at_first >= wanted.quantity)
            & (self.free_at_first >= wanted.quantity)
        )
        if wanted.max_price_minor is not None:
            fits &= self.price <= wanted.max_price_minor
        [found] = np.nonzero(fits)
        if not found.size:
            return _Ranking(wanted, self, found, found, 0)
        price = self.price[found]
        cheapest = int(price.min())
        days = wanted.days_left + 1
        # As score.parts and score.total have it, for all at once; a test holds the two equal.
        score = (
            weights.price * (ONE * cheapest // price)
            + weights.lead_time * (ONE * (days - self.lead[found]) // days)
            + weights.quality * (ONE // 1000 * self.quality[found])
            + weights.capacity * (ONE * (self.free_at_first[found] - wanted.quantity) // self.capacity[found])
        ) // 100
        order = np.argsort(-score, kind="stable")  # offers stand by id, so equal scores do
        return _Ranking(wanted, self, found[order].astype(np.int32), score[order].astype(np.int32), cheapest)

    def _delivers_to(self, region: str) -> Truths:
        import numpy as np

        if region not in self._regions:
            self._regions[region] = np.array([region in offer.regions for offer in self.offers], dtype=np.bool_)
        return self._regions[region]


class _Ranking:
    """One order's offers, best first, and how far it has come."""

    def __init__(self, wanted: Wanted, shelf: _Shelf, places: Numbers, scores: Numbers, cheapest: int) -> None:
        self.wanted, self.shelf, self.places, self.scores, self.cheapest = wanted, shelf, places, scores, cheapest
        self.at = 0

    def advance(self, free: Numbers) -> bool:
        """Go on to the best offer that has room, from where it stands; False if there is none."""
        places, quantity = self.places[self.at :], self.wanted.quantity
        room = (self.shelf.left[places] >= quantity) & (free[self.shelf.supplier[places]] >= quantity)
        step = int(room.argmax()) if room.size else 0
        self.at += step
        return bool(room.size) and bool(room[step])

    def entry(self) -> tuple[int, int, int]:
        """What it is queued by: the highest score, the oldest order, the oldest offer."""
        return -int(self.scores[self.at]), self.wanted.id, self.offer.id

    @property
    def place(self) -> int:
        return int(self.places[self.at])

    @property
    def offer(self) -> Offer:
        return self.shelf.offers[self.place]

    def take(self, free: Numbers) -> Match:
        """Give the order the offer that it stands at."""
        self.shelf.left[self.place] -= self.wanted.quantity
        free[self.shelf.supplier[self.place]] -= self.wanted.quantity
        return Match(
            self.wanted,
            self.offer,
            int(self.scores[self.at]),
            parts(self.wanted, self.offer, self.cheapest),
            self.cheapest,
            self.at + 1,
            len(self.places),
        )


def match(orders: Iterable[Wanted], offers: Iterable[Offer], weights: Weights) -> Outcome:
    """Match orders to offers; in whatever order they are given, the outcome is the same.

    Offers of one supplier must agree in its capacity and in what of it is free.
    """
    import numpy as np

    stock = sorted(offers, key=lambda offer: offer.id)
    suppliers = {supplier: place for place, supplier in enumerate(sorted({offer.supplier_id for offer in stock}))}
    free: Numbers = np.zeros(len(suppliers), dtype=np.int64)
    by_product: dict[int, list[Offer]] = {}
    for offer in stock:
        free[suppliers[offer.supplier_id]] = offer.free
        by_product.setdefault(offer.product_id, []).append(offer)
    shelves: dict[tuple[int, str], _Shelf] = {}
    rankings: dict[int, _Ranking] = {}
    queue, unserved = [], []
    for wanted in orders:
        key = (wanted.product_id, wanted.currency)
        if key not in shelves:
            shelves[key] = _Shelf(
                [offer for offer in by_product.get(wanted.product_id, []) if offer.currency == wanted.currency],
                suppliers,
            )
        ranking = shelves[key].ranked(wanted, weights)
        if ranking.advance(free):
            rankings[wanted.id] = ranking
            queue.append(ranking.entry())
        else:
            unserved.append(Unserved(wanted, len(ranking.places)))
    heapq.heapify(queue)
    matches = []
    while queue:
        _, order_id, _ = heapq.heappop(queue)
        ranking = rankings[order_id]
        stood_at = ranking.at
        if not ranking.advance(free):
            unserved.append(Unserved(ranking.wanted, len(ranking.places)))
        elif ranking.at == stood_at:
            matches.append(ranking.take(free))
        else:
            heapq.heappush(queue, ranking.entry())
    return Outcome(
        sorted(matches, key=lambda match: match.wanted.id), sorted(unserved, key=lambda each: each.wanted.id)
    )


def objections(wanted: Wanted, offers: Iterable[Offer]) -> dict[str, int]:
    """What speaks against the offers of an order's product, with how many of them: of each the first reason."""
    of_product = (offer for offer in offers if offer.product_id == wanted.product_id)
    return dict(Counter(why[0] for offer in of_product if (why := unfit(wanted, offer))))
