"""### Matches purchase orders to suppliers' offers

Every open purchase order gets the offer that serves it best. An offer fits if it is of the product and currency, delivers
to the region by the day that it is needed, costs no more than the order allows, takes so small a quantity, and has, as its
supplier's capacity has, room for all of it. Among those that fit the **score** decides: price, lead time, quality and
capacity by the weights of `[matching.weights]` in `include/config/backline.toml`. Pairs are taken from the highest score
down, so no order could do better without taking from one that scores higher there (docs/commerce.md).

- **Explained**: each allocation keeps its score's parts, where they come from, and its place among the offers that fit.
- **Never over-allocated**: orders, offers and suppliers are locked while it decides; runs at the same time are safe.
- **Bounded**: up to 10,000 orders a run, those that are needed first first. The result says what is left, and what speaks
  against the offers of orders that got none.
- **Started** by an event of the asset `purchase orders`, by hand or by the API.
- **dry_run**: says what would be allocated, and changes nothing.
"""

from __future__ import annotations

from airflow.sdk import Param, task

from backline.airflow.jobs import Requires, job_dag, reporter
from backline.airflow.matching import PURCHASE_ORDERS, match_now

with job_dag(
    "match_orders",
    doc=__doc__,
    schedule=PURCHASE_ORDERS,
    params={
        "most": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=100_000,
            title="Orders at most",
            description="The setting matching.batch_limit when left out.",
        ),
        "dry_run": Param(False, type="boolean", title="Dry run", description="Only say what would be allocated."),
    },
    requires=Requires(tables=("app.purchase_orders", "app.suppliers", "app.offers", "app.allocations")),
    pool="orders",
    memory_limit_mib=2048,
    result_ttl_seconds=7 * 86_400,
    tags=("commerce",),
) as dag:

    @task
    def match(params: dict[str, int | None]) -> dict[str, object]:
        """Decides and writes in one transaction; returns how many orders got an offer, and why others got none."""
        report = match_now(most=params["most"], dry_run=bool(params["dry_run"]))
        reporter().result(report)
        return report

    match()
