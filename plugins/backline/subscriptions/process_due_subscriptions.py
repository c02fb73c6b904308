"""Renews all subscriptions that are due, in chunks that run in parallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backline.db.statements import statement
from backline.errors import Rejected
from backline.jobs.batch import BatchResult, with_unsent
from backline.jobs.job import Job
from backline.subscriptions.process_single_subscription import SubscriptionItem, renew
from backline.subscriptions.settings import SubscriptionSettings

_MAX_ID = 2**63 - 1


def find_chunks(job: Job[SubscriptionSettings]) -> list[dict[str, int]]:
    """Up to `max_chunks` ranges of ids, as many as Airflow maps tasks to, `first` to `last`, with `chunk_size` due subscriptions each."""
    size = job.settings.chunk_size
    ids = [item.id for item in _due_subscriptions(job, 1, _MAX_ID, size * _max_chunks(job))]
    chunks = [{"first": ids[start], "last": ids[min(start + size, len(ids)) - 1]} for start in range(0, len(ids), size)]
    if not chunks:  # the other tasks are skipped: store the run's result here
        job.results.result({"chunks": 0})
    return chunks


def renew_chunk(job: Job[SubscriptionSettings], first: int, last: int) -> BatchResult:
    """Renew the due subscriptions of one range."""

    def renew_one(item: SubscriptionItem) -> tuple[str, ...]:
        renewal = renew(job.database, item.id, job.now, job.settings)
        return with_unsent(renewal.outcome, renewal.unsent_messages)

    return job.run_each(_due_subscriptions(job, first, last, job.settings.chunk_size), renew_one)


def summarize(
    job: Job[SubscriptionSettings], chunks: Sequence[Mapping[str, int]], results: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    """Add up the results of all chunks; the run fails, after its result is stored, if a chunk failed."""
    total = BatchResult.from_results(results)
    total.limit_reached = len(chunks) >= _max_chunks(job)
    failed = len(chunks) - len(results)
    if failed:
        job.fail_at_end(Rejected(
            f"{failed} of {len(chunks)} chunks failed; their task logs have the reasons. Run the job again: it processes "
            "only what is left"
        ))  # fmt: skip
    return {"chunks": len(chunks), "chunks_failed": failed, "subscriptions": total}


def _max_chunks(job: Job[SubscriptionSettings]) -> int:
    return min(job.settings.max_chunks, job.max_mapped_tasks)


def _due_subscriptions(job: Job[SubscriptionSettings], first: int, last: int, limit: int) -> list[SubscriptionItem]:
    values = {"now": job.now, "first": first, "last": last, "batch_limit": limit}
    return job.items(statement("subscriptions", "subscriptions_due"), SubscriptionItem, values)
