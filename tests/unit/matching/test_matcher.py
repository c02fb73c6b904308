"""Properties of every market: nothing is over-allocated, no pair blocks, and the order of input is irrelevant."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from backline.matching.matcher import Match, MatchResult, match, rejection_reasons
from backline.matching.score import (
    COMPONENTS,
    SCORE_SCALE,
    Offer,
    PurchaseOrder,
    failed_constraints,
    score_components,
    to_decimal,
)
from backline.matching.settings import Weights

EVEN = Weights()
Market = tuple[list[PurchaseOrder], list[Offer]]


@st.composite
def markets(draw: st.DrawFn) -> Market:
    """Small, crowded markets: few products, suppliers with several offers, small quantities, many equal scores."""
    suppliers = draw(
        st.lists(
            st.tuples(
                st.sets(st.sampled_from(["DE", "FR"]), min_size=1),
                st.integers(0, 3),
                st.integers(1, 12),
                st.integers(-2, 12),
            ),
            min_size=1,
            max_size=4,
        )
    )
    offers = []
    for number in range(draw(st.integers(0, 8))):
        place = draw(st.integers(0, len(suppliers) - 1))
        regions, quality, capacity, free = suppliers[place]
        offers.append(
            Offer(
                id=100 + number, supplier_id=place, product_id=draw(st.integers(1, 2)),
                unit_price_minor=draw(st.sampled_from([100, 150, 200])), currency=draw(st.sampled_from(["EUR", "EUR", "USD"])),
                min_quantity=draw(st.integers(1, 3)), remaining=draw(st.integers(0, 9)), lead_days=draw(st.integers(0, 3)),
                regions=frozenset(regions), quality=700 + 100 * quality, capacity=capacity, free_capacity=min(free, capacity),
            )
        )  # fmt: skip
    orders = [
        PurchaseOrder(
            id=number, product_id=draw(st.integers(1, 3)), quantity=draw(st.integers(1, 6)),
            region=draw(st.sampled_from(["DE", "FR"])), currency="EUR", days_left=draw(st.integers(-1, 4)),
            max_price_minor=draw(st.sampled_from([None, 100, 160])),
        )
        for number in range(draw(st.integers(0, 9)))
    ]  # fmt: skip
    return orders, offers


def weighted_score(components: dict[str, int], weights: Weights) -> int:
    """The score: the components by their weights."""
    return sum(int(getattr(weights, name)) * components[name] for name in COMPONENTS) // 100


def scores_of(order: PurchaseOrder, offers: Sequence[Offer], weights: Weights) -> dict[int, int]:
    """The score of each eligible offer by its id, by the plain functions."""
    eligible = [offer for offer in offers if not failed_constraints(order, offer)]
    cheapest = min((offer.unit_price_minor for offer in eligible), default=0)
    return {offer.id: weighted_score(score_components(order, offer, cheapest), weights) for offer in eligible}


def blocking_pairs(market: Market, result: MatchResult, weights: Weights) -> list[tuple[int, int]]:
    """Orders and offers that would both be better off with each other.

    The order has a higher score with that offer, which has room once the pairs that come after this one are released.
    """
    orders, offers = market
    taken = {found.order.id: found for found in result.matches}

    def before(pair: Match, rank: tuple[int, int, int]) -> bool:
        return (-pair.score, pair.order.id, pair.offer.id) < rank

    found = []
    for order in orders:
        for offer_id, score in scores_of(order, offers, weights).items():
            [offer] = [each for each in offers if each.id == offer_id]
            has = taken.get(order.id)
            if has is not None and (-has.score, has.offer.id) <= (-score, offer_id):
                continue
            rank = (-score, order.id, offer_id)
            firm = [pair for pair in result.matches if pair.order.id != order.id and before(pair, rank)]
            of_offer = sum(pair.order.quantity for pair in firm if pair.offer.id == offer_id)
            of_supplier = sum(pair.order.quantity for pair in firm if pair.offer.supplier_id == offer.supplier_id)
            if of_offer + order.quantity <= offer.remaining and of_supplier + order.quantity <= offer.free_capacity:
                found.append((order.id, offer_id))
    return found


@given(markets())
def test_each_order_is_in_the_result_once_and_nothing_is_over_allocated(market: Market) -> None:
    orders, offers = market
    result = match(orders, offers, EVEN)
    decided = [found.order.id for found in result.matches] + [each.order.id for each in result.unmatched]
    assert sorted(decided) == [order.id for order in orders]
    by_offer: Counter[int] = Counter()
    by_supplier: Counter[int] = Counter()
    for found in result.matches:
        assert failed_constraints(found.order, found.offer) == []
        by_offer[found.offer.id] += found.order.quantity
        by_supplier[found.offer.supplier_id] += found.order.quantity
    assert all(by_offer[offer.id] <= offer.remaining for offer in offers if by_offer[offer.id])
    assert all(
        by_supplier[offer.supplier_id] <= offer.free_capacity for offer in offers if by_supplier[offer.supplier_id]
    )


@given(markets(), st.sampled_from([EVEN, Weights(price=100, lead_time=0, quality=0, capacity=0), Weights(price=0, lead_time=50, quality=0, capacity=50)]))  # fmt: skip
def test_no_pair_blocks(market: Market, weights: Weights) -> None:
    assert blocking_pairs(market, match(*market, weights), weights) == []


@given(markets(), st.randoms(use_true_random=False))
def test_the_order_of_input_is_irrelevant(market: Market, rng: random.Random) -> None:
    orders, offers = market
    result = match(orders, offers, EVEN)
    mixed = rng.sample(orders, len(orders)), rng.sample(offers, len(offers))
    assert match(*mixed, EVEN) == result


@given(markets())
def test_scores_and_ranks_are_those_of_the_plain_functions(market: Market) -> None:
    orders, offers = market
    result = match(orders, offers, EVEN)
    for found in result.matches:
        scores = scores_of(found.order, offers, EVEN)
        assert found.score == scores[found.offer.id] == weighted_score(found.score_components, EVEN)
        ranked = sorted(scores, key=lambda offer_id: (-scores[offer_id], offer_id))
        assert (found.rank, found.eligible_offers) == (ranked.index(found.offer.id) + 1, len(ranked))
        assert all(0 <= found.score_components[name] <= SCORE_SCALE for name in COMPONENTS)
    for each in result.unmatched:
        assert each.eligible_offers == len(scores_of(each.order, offers, EVEN))


def offer(number: int, **more: object) -> Offer:
    values = {
        "id": number, "supplier_id": number, "product_id": 1, "unit_price_minor": 100, "currency": "EUR",
        "min_quantity": 1, "remaining": 10, "lead_days": 5, "regions": frozenset({"DE"}), "quality": 900, "capacity": 100,
        "free_capacity": 100,
    }  # fmt: skip
    return Offer(**{**values, **more})  # type: ignore[arg-type]


def order(number: int, **more: object) -> PurchaseOrder:
    values = {"id": number, "product_id": 1, "quantity": 5, "region": "DE", "currency": "EUR", "days_left": 9}
    return PurchaseOrder(**{**values, **more})  # type: ignore[arg-type]


def test_a_score_by_hand() -> None:
    found = score_components(order(1), offer(1, unit_price_minor=125, free_capacity=60), 100)
    assert found == {"price": 80_000, "lead_time": 50_000, "quality": 90_000, "capacity": 55_000}
    assert str(to_decimal(weighted_score(found, EVEN))) == "0.72500"


def test_the_better_offer_goes_to_the_older_orders() -> None:
    good, bad = offer(1), offer(2, unit_price_minor=200)
    result = match([order(1), order(2), order(3), order(4), order(5)], [bad, good], EVEN)
    assert [(found.order.id, found.offer.id, found.rank) for found in result.matches] == [
        (1, 1, 1), (2, 1, 1), (3, 2, 2), (4, 2, 2),
    ]  # fmt: skip
    assert [(each.order.id, each.eligible_offers) for each in result.unmatched] == [(5, 2)]


def test_a_suppliers_capacity_is_shared_by_all_its_products() -> None:
    offers = [offer(1, supplier_id=7, free_capacity=6), offer(2, supplier_id=7, product_id=2, free_capacity=6)]
    result = match([order(1), order(2, product_id=2)], offers, EVEN)
    assert [found.order.id for found in result.matches] == [1]


def test_the_first_failed_constraint_of_each_offer_is_counted() -> None:
    offers = [
        offer(1, currency="USD"), offer(2, regions=frozenset({"FR"})), offer(3, lead_days=10),
        offer(4, unit_price_minor=111), offer(5, min_quantity=6), offer(6, remaining=4), offer(7, free_capacity=4), offer(8, remaining=0),
        offer(9, product_id=2),
    ]  # fmt: skip
    picky = order(1, max_price_minor=110)
    assert match([picky], offers, EVEN).matches == []
    assert rejection_reasons(picky, offers) == {
        "currency": 1, "region": 1, "deadline": 1, "price": 1, "minimum quantity": 1, "quantity": 2, "capacity": 1,
    }  # fmt: skip
