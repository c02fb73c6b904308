"""### Renews every subscription that is due today

Each gets its order with its stock set aside, its next date and its confirmation in one transaction of its own. Today is
the day in the subscription's own zone: by 00:00 UTC every zone is past the beginning of one day since the last run.

- **In chunks**: ranges of ids, a few at a time (`chunk` and `parallel` of `[subscriptions]` in
  `include/config/backline.toml`), 200,000 subscriptions a run at most.
- **One failure harms only itself**: the others are renewed, the run's result counts what became of all, and the last
  task fails and names those that failed, so that a dead letter and an alert come of them.
- **Safe to repeat**, also when it was killed in the middle: a cycle makes one order.
- **Paused, skipped, out of stock, price changes, missed days**: docs/commerce.md.
"""

from __future__ import annotations

from airflow.sdk import task

from backline.airflow.jobs import job_dag
from backline.airflow.subscriptions import NEEDS, find_due, renew_chunk_now, report_renewals
from backline.settings import settings
from backline.subscriptions.settings import SubscriptionSettings

with job_dag(
    "process_due_subscriptions",
    doc=__doc__,
    schedule="0 0 * * *",
    requires=NEEDS,
    max_active_runs=1,
    pool="orders",
    result_ttl_seconds=7 * 86_400,
    tags=("commerce",),
):

    @task
    def find() -> list[dict[str, int]]:
        """Lists what is due, in chunks."""
        return find_due()

    # A mapped task does not take its page from its docstring.
    @task(
        max_active_tis_per_dagrun=settings().section(SubscriptionSettings).max_parallel_chunks,
        doc_md="Renews what is due of one chunk.",
    )
    def renew(chunk: dict[str, int]) -> dict[str, object]:
        """Renews what is due of one chunk; returns what became of it."""
        return renew_chunk_now(chunk["first"], chunk["last"])

    @task(trigger_rule="all_done_min_one_success")  # also when a chunk has failed; skipped when nothing was due
    def report(chunks: list[dict[str, int]], reports: list[dict[str, object]]) -> dict[str, object]:
        """Sums up all chunks; fails if a subscription failed."""
        return report_renewals(chunks, reports)

    due = find()
    report(due, renew.expand(chunk=due))
