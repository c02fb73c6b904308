"""Matches open purchase orders with suppliers' current offers, and stores each allocation with its explanation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from backline.db.statements import statement
from backline.errors import DatabaseFailure
from backline.jobs.job import Job
from backline.matching.matcher import Match, match, rejection_reasons
from backline.matching.score import COMPONENTS, Offer, PurchaseOrder, to_decimal
from backline.matching.settings import MatchingSettings, Weights

MAX_LISTED = 50
"""Unmatched orders that the result explains."""


def match_orders(job: Job[MatchingSettings]) -> dict[str, object]:
    """Match up to `limit` open purchase orders, most urgent first, in one transaction; a dry run allocates nothing.

    Concurrent runs take different orders, and wait for each other if they need the same suppliers.
    """
    limit = job.params.optional("limit", int) or job.settings.batch_limit
    with job.transaction():
        orders = job.rows(statement("matching", "purchase_orders_lock"), PurchaseOrder, {"batch_limit": limit})
        offers = _lock_offers(job, sorted({order.product_id for order in orders}))
        result = match(orders, offers, job.settings.weights)
        if result.matches and not job.dry_run:
            _insert_allocations(job, result.matches)
        [open_count] = job.rows(statement("matching", "open_purchase_orders_count"), int)
    return {
        "dry_run": job.dry_run,
        "orders": len(orders),
        "allocated": len(result.matches),
        "quantity": sum(found.order.quantity for found in result.matches),
        "unmatched": len(result.unmatched),
        # Open orders after the run: unmatched, over the limit, or locked by another run.
        "remaining": open_count - (len(result.matches) if job.dry_run else 0),
        "unmatched_reasons": [
            {
                "order": each.order.id,
                "taken_by_others": each.eligible_offers,
                "rejection_reasons": rejection_reasons(each.order, offers),
            }
            for each in result.unmatched[:MAX_LISTED]
        ],
    }


def explain(found: Match, weights: Weights) -> dict[str, Any]:
    """Why an order got its offer, as stored with the allocation: each component of the score and its inputs."""
    order, offer = found.order, found.offer
    inputs: dict[str, dict[str, Any]] = {
        "price": {"unit_price_minor": offer.unit_price_minor, "cheapest_minor": found.cheapest_minor},
        "lead_time": {"lead_days": offer.lead_days, "days_left": order.days_left},
        "quality": {"without_complaint": str(to_decimal(offer.quality * 100))},
        "capacity": {"capacity": offer.capacity, "free_before": offer.free_capacity, "quantity": order.quantity},
    }
    place = (
        "the only eligible offer" if found.eligible_offers == 1 else f"best of {found.eligible_offers} eligible offers"
    )
    if found.rank > 1:
        place = (
            f"number {found.rank} of {found.eligible_offers} eligible offers; the better ones went to orders with higher "
            "scores there, or to older orders with equal scores"
        )
    score = str(to_decimal(found.score))
    return {
        "score": score,
        "components": {
            name: {
                "score": str(to_decimal(found.score_components[name])),
                "weight": getattr(weights, name),
                **inputs[name],
            }
            for name in COMPONENTS
        },
        "rank": found.rank,
        "eligible_offers": found.eligible_offers,
        "text": f"Score {score}: {place}.",
    }


def _lock_offers(job: Job[MatchingSettings], products: Sequence[int]) -> list[Offer]:
    if not products:
        return []
    suppliers = job.rows(statement("matching", "suppliers_lock"), int, {"products": products})
    return job.rows(statement("matching", "offers_lock"), Offer, {"products": products, "suppliers": suppliers})


def _insert_allocations(job: Job[MatchingSettings], matches: Sequence[Match]) -> None:
    values = {
        "orders": [found.order.id for found in matches],
        "offers": [found.offer.id for found in matches],
        "quantities": [found.order.quantity for found in matches],
        "scores": [to_decimal(found.score) for found in matches],
        "explanations": [json.dumps(explain(found, job.settings.weights)) for found in matches],
    }
    [allocated] = job.rows(statement("matching", "allocations_create"), int, values)
    if allocated != len(matches):  # only if custom statements do not lock
        raise DatabaseFailure(f"{len(matches) - allocated} orders were taken by another run; nothing was allocated")
