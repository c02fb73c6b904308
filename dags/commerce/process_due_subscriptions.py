"""### Renews every subscription that is due today

Each gets its order with reserved stock, its next cycle and its confirmation in one transaction. Today is the day in the
subscription's own zone: by 00:00 UTC a new day has begun in every zone since the last run.

- **In chunks**: ranges of ids, a few at a time (`chunk_size` and `max_parallel_chunks` of `[subscriptions]` in
  `include/config/backline.toml`), 200,000 subscriptions a run at most.
- **Isolated**: a subscription that fails for good becomes a dead letter and is left out until that is closed; the others are
  renewed, and the result counts them by outcome.
- **Safe to repeat**, even after a kill: a cycle gets one order.
- **Paused, skipped, out of stock, price changes, missed days**: docs/commerce.md.
"""

from __future__ import annotations

from backline.airflow.jobs import Requires, job_dag, job_task
from backline.settings import settings
from backline.subscriptions.settings import SubscriptionSettings

JOB = "backline.subscriptions.process_due_subscriptions"
TABLES = ("app.subscriptions", "app.users", "app.products", "app.orders", "app.order_lines")
PARALLEL = settings().section(SubscriptionSettings).max_parallel_chunks

with job_dag(
    "process_due_subscriptions",
    doc=__doc__,
    schedule="0 0 * * *",
    requires=Requires(tables=TABLES),
    max_active_runs=1,
    pool="orders",
    result_ttl_seconds=7 * 86_400,
    tags=("commerce",),
):
    chunks = job_task(f"{JOB}:find_chunks", stores_result=False)
    renewed = job_task(f"{JOB}:renew_chunk", expand=chunks.output, max_active_tis_per_dagrun=PARALLEL)
    inputs = {"chunks": chunks.output, "results": renewed.output}
    job_task(f"{JOB}:summarize", inputs=inputs, trigger_rule="all_done_min_one_success")  # also if a chunk failed
