"""Matches open purchase orders to what suppliers offer now, and writes down who got what and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from backline.db.session import Session
from backline.db.statements import statement
from backline.errors import DatabaseFailure
from backline.matching.market import Match, Outcome, match, objections
from backline.matching.score import PARTS, Offer, Wanted, written
from backline.matching.settings import MatchingSettings, Weights

TOLD_OF = 50
"""How many orders that no offer serves are told of one by one."""


@dataclass(slots=True)
class MatchReport:
    """What was (dry run: would be) allocated."""

    dry_run: bool
    orders: int = 0
    """Looked at."""
    allocated: int = 0
    pieces: int = 0
    unserved: int = 0
    left: int = 0
    """Open orders after it: the unserved, those over the bound, those that another run has."""
    why_unserved: list[dict[str, Any]] = field(default_factory=list)
    """Of the first of them: the order, how many offers fitted and went to others, what speaks against the rest."""

    def as_dict(self) -> dict[str, Any]:
        """For the run's result."""
        return asdict(self)


def match_open(database: Session, config: MatchingSettings, *, most: int, dry_run: bool = False) -> MatchReport:
    """Match up to `most` open purchase orders, those that are needed first first, in one transaction.

    Runs at the same time take different orders, and wait for each other where they want of the same suppliers.
    """
    with database.transaction():
        wanted = [Wanted(**row) for row in database.execute(statement("matching", "wanted_lock"), {"most": most})]
        offers = _offers(database, sorted({each.product_id for each in wanted}))
        outcome = match(wanted, offers, config.weights)
        if outcome.matches and not dry_run:
            _write(database, outcome.matches, config.weights)
        [count] = database.execute(statement("matching", "wanted_count")).fetchall()
    return _report(outcome, offers, dry_run=dry_run, still_open=count["open"])


def explanation(found: Match, weights: Weights) -> dict[str, Any]:
    """Why an order got its offer, as it is kept with the allocation: each part of the score and what it comes from."""
    wanted, offer = found.wanted, found.offer
    facts: dict[str, dict[str, Any]] = {
        "price": {"unit_price_minor": offer.unit_price_minor, "cheapest_minor": found.cheapest_minor},
        "lead_time": {"lead_days": offer.lead_days, "days_left": wanted.days_left},
        "quality": {"without_complaint": str(written(offer.quality * 100))},
        "capacity": {"capacity": offer.capacity, "free_before": offer.free, "quantity": wanted.quantity},
    }
    return {
        "score": str(written(found.score)),
        "parts": {
            name: {"score": str(written(found.parts[name])), "weight": getattr(weights, name), **facts[name]}
            for name in PARTS
        },
        "place": found.place,
        "fitting": found.fitting,
        "text": _in_words(found),
    }


def _in_words(found: Match) -> str:
    offers = "the only offer that fits" if found.fitting == 1 else f"best of {found.fitting} offers that fit"
    if found.place > 1:
        offers = f"number {found.place} of {found.fitting} offers that fit; what is before it went to orders that score higher there, or as high and are older"
    return f"Score {written(found.score)}: {offers}."


def _offers(database: Session, products: Sequence[int]) -> list[Offer]:
    if not products:
        return []
    suppliers = database.execute(statement("matching", "suppliers_lock"), {"products": products}).fetchall()
    values = {"products": products, "suppliers": [row["id"] for row in suppliers]}
    return [_offer(row) for row in database.execute(statement("matching", "offers_lock"), values)]


def _offer(row: Mapping[str, Any]) -> Offer:
    return Offer(
        id=row["id"],
        supplier_id=row["supplier_id"],
        product_id=row["product_id"],
        unit_price_minor=row["unit_price_minor"],
        currency=row["currency"],
        min_quantity=row["min_quantity"],
        left=row["quantity_left"],
        lead_days=row["lead_days"],
        regions=frozenset(row["regions"]),
        quality=row["quality"],
        capacity=row["capacity"],
        free=row["capacity_left"],
    )


def _write(database: Session, matches: Sequence[Match], weights: Weights) -> None:
    values = {
        "orders": [found.wanted.id for found in matches],
        "offers": [found.offer.id for found in matches],
        "quantities": [found.wanted.quantity for found in matches],
        "scores": [written(found.score) for found in matches],
        "explanations": [json.dumps(explanation(found, weights)) for found in matches],
    }
    [row] = database.execute(statement("matching", "allocations_create"), values).fetchall()
    if row["allocated"] != len(matches):  # only if your own statements do not lock
        raise DatabaseFailure(
            f"{len(matches) - row['allocated']} orders were taken by somebody else; nothing was allocated"
        )


def _report(outcome: Outcome, offers: Sequence[Offer], *, dry_run: bool, still_open: int) -> MatchReport:
    told = [
        {"order": each.wanted.id, "went_to_others": each.fitting, "against": objections(each.wanted, offers)}
        for each in outcome.unserved[:TOLD_OF]
    ]
    return MatchReport(
        dry_run=dry_run,
        orders=len(outcome.matches) + len(outcome.unserved),
        allocated=len(outcome.matches),
        pieces=sum(found.wanted.quantity for found in outcome.matches),
        unserved=len(outcome.unserved),
        left=still_open - (len(outcome.matches) if dry_run else 0),
        why_unserved=told,
    )
