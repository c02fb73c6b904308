"""Matches open purchase orders to what suppliers offer now, and writes down who got what and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from backline.db.connect import Session
from backline.db.statements import statement
from backline.errors import DatabaseFailure
from backline.matching.matcher import Match, MatchResult, match, rejection_reasons
from backline.matching.score import COMPONENTS, Offer, PurchaseOrder, to_decimal
from backline.matching.settings import MatchingSettings, Weights

MAX_LISTED = 50
"""How many orders that no offer serves are told of one by one."""


@dataclass(slots=True)
class MatchReport:
    """What was (dry run: would be) allocated."""

    dry_run: bool
    orders: int = 0
    """Looked at."""
    allocated: int = 0
    quantity: int = 0
    unmatched: int = 0
    remaining: int = 0
    """Open orders after it: the unserved, those over the bound, those that another run has."""
    unmatched_reasons: list[dict[str, Any]] = field(default_factory=list)
    """Of the first of them: the order, how many offers fitted and went to others, what speaks against the rest."""

    def as_dict(self) -> dict[str, Any]:
        """For the run's result."""
        return asdict(self)


def match_open_orders(database: Session, config: MatchingSettings, *, limit: int, dry_run: bool = False) -> MatchReport:
    """Match up to `most` open purchase orders, those that are needed first first, in one transaction.

    Runs at the same time take different orders, and wait for each other where they want of the same suppliers.
    """
    with database.transaction():
        wanted = [
            PurchaseOrder(**row)
            for row in database.execute(statement("matching", "purchase_orders_lock"), {"batch_limit": limit})
        ]
        offers = _lock_offers(database, sorted({each.product_id for each in wanted}))
        outcome = match(wanted, offers, config.weights)
        if outcome.matches and not dry_run:
            _insert_allocations(database, outcome.matches, config.weights)
        [count] = database.execute(statement("matching", "open_purchase_orders_count")).fetchall()
    return _report(outcome, offers, dry_run=dry_run, still_open=count["open"])


def explain(found: Match, weights: Weights) -> dict[str, Any]:
    """Why an order got its offer, as it is kept with the allocation: each part of the score and what it comes from."""
    wanted, offer = found.order, found.offer
    facts: dict[str, dict[str, Any]] = {
        "price": {"unit_price_minor": offer.unit_price_minor, "cheapest_minor": found.cheapest_minor},
        "lead_time": {"lead_days": offer.lead_days, "days_left": wanted.days_left},
        "quality": {"without_complaint": str(to_decimal(offer.quality * 100))},
        "capacity": {"capacity": offer.capacity, "free_before": offer.free_capacity, "quantity": wanted.quantity},
    }
    return {
        "score": str(to_decimal(found.score)),
        "parts": {
            name: {
                "score": str(to_decimal(found.score_components[name])),
                "weight": getattr(weights, name),
                **facts[name],
            }
            for name in COMPONENTS
        },
        "place": found.rank,
        "fitting": found.eligible_offers,
        "text": _explanation_text(found),
    }


def _explanation_text(found: Match) -> str:
    offers = (
        "the only offer that fits" if found.eligible_offers == 1 else f"best of {found.eligible_offers} offers that fit"
    )
    if found.rank > 1:
        offers = f"number {found.rank} of {found.eligible_offers} offers that fit; what is before it went to orders that score higher there, or as high and are older"
    return f"Score {to_decimal(found.score)}: {offers}."


def _lock_offers(database: Session, products: Sequence[int]) -> list[Offer]:
    if not products:
        return []
    suppliers = database.execute(statement("matching", "suppliers_lock"), {"products": products}).fetchall()
    values = {"products": products, "suppliers": [row["id"] for row in suppliers]}
    return [_offer_from_row(row) for row in database.execute(statement("matching", "offers_lock"), values)]


def _offer_from_row(row: Mapping[str, Any]) -> Offer:
    return Offer(
        id=row["id"],
        supplier_id=row["supplier_id"],
        product_id=row["product_id"],
        unit_price_minor=row["unit_price_minor"],
        currency=row["currency"],
        min_quantity=row["min_quantity"],
        remaining=row["quantity_left"],
        lead_days=row["lead_days"],
        regions=frozenset(row["regions"]),
        quality=row["quality"],
        capacity=row["capacity"],
        free_capacity=row["capacity_left"],
    )


def _insert_allocations(database: Session, matches: Sequence[Match], weights: Weights) -> None:
    values = {
        "orders": [found.order.id for found in matches],
        "offers": [found.offer.id for found in matches],
        "quantities": [found.order.quantity for found in matches],
        "scores": [to_decimal(found.score) for found in matches],
        "explanations": [json.dumps(explain(found, weights)) for found in matches],
    }
    [row] = database.execute(statement("matching", "allocations_create"), values).fetchall()
    if row["allocated"] != len(matches):  # only if your own statements do not lock
        raise DatabaseFailure(
            f"{len(matches) - row['allocated']} orders were taken by somebody else; nothing was allocated"
        )


def _report(outcome: MatchResult, offers: Sequence[Offer], *, dry_run: bool, still_open: int) -> MatchReport:
    told = [
        {
            "order": each.order.id,
            "went_to_others": each.eligible_offers,
            "against": rejection_reasons(each.order, offers),
        }
        for each in outcome.unmatched[:MAX_LISTED]
    ]
    return MatchReport(
        dry_run=dry_run,
        orders=len(outcome.matches) + len(outcome.unmatched),
        allocated=len(outcome.matches),
        quantity=sum(found.order.quantity for found in outcome.matches),
        unmatched=len(outcome.unmatched),
        remaining=still_open - (len(outcome.matches) if dry_run else 0),
        unmatched_reasons=told,
    )
