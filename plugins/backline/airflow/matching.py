"""The task of the job that matches purchase orders to offers."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset

from backline.matching.settings import MatchingSettings

PURCHASE_ORDERS = Asset(name="purchase orders", uri="backline://app/purchase_orders")
"""Who has made purchase orders says so by an event of it; the orders themselves are read from their table."""


def match_now(*, most: int | None, dry_run: bool) -> dict[str, Any]:
    """Match open purchase orders; returns the report. `most`: the setting if None."""
    from backline.airflow.connections import app_dsn
    from backline.db.connect import session
    from backline.matching.match_orders import match_open_orders
    from backline.settings import settings

    config = settings().section(MatchingSettings)
    with session(app_dsn(), name="matching") as database:
        return match_open_orders(database, config, limit=most or config.batch_limit, dry_run=dry_run).as_dict()
