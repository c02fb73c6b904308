"""### Matches purchase orders with suppliers' offers

Every open purchase order gets the best offer. An offer is eligible if product and currency match, it delivers to the region
by the deadline, its price is within the order's maximum, its minimum quantity is not above the order's quantity, and both the
offer and its supplier's capacity have room for the whole order. The **score** ranks eligible offers: price, lead time, quality
and capacity by the weights of `[matching.weights]` in `include/config/backline.toml`. Pairs are matched from the highest score
down, so no order could do better without taking an offer from an order with a higher score there (docs/commerce.md).

- **Explained**: each allocation stores the components of its score, their inputs, and its rank among the eligible offers.
- **Never over-allocated**: orders, offers and suppliers are locked while it decides; concurrent runs are safe.
- **Bounded**: up to 10,000 orders a run, earliest deadline first. The result counts the remaining orders and explains why
  orders got no offer.
- **Started** by an event of the asset `purchase orders`, by hand or by the API.
- **dry_run**: returns what would be allocated, and changes nothing.
"""

from __future__ import annotations

from airflow.sdk import Asset, Param

from backline.airflow.jobs import Requires, job_dag, job_task

LIMIT = Param(
    None, type=["null", "integer"], minimum=1, maximum=100_000, title="Maximum orders",
    description="Empty: the setting matching.batch_limit.",
)  # fmt: skip

with job_dag(
    "match_orders",
    doc=__doc__,
    schedule=Asset(name="purchase orders", uri="backline://app/purchase_orders"),
    params={
        "limit": LIMIT,
        "dry_run": Param(False, type="boolean", title="Dry run", description="Only return what would be allocated."),
    },
    requires=Requires(tables=("app.purchase_orders", "app.suppliers", "app.offers", "app.allocations")),
    pool="orders",
    memory_limit_mib=2048,
    result_ttl_seconds=7 * 86_400,
    tags=("commerce",),
):
    job_task("backline.matching.match_orders")
