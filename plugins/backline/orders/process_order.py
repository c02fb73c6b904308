"""Processes one order: validates it, reserves its stock, charges and confirms it, or compensates."""

from __future__ import annotations

from backline.jobs.job import Job
from backline.orders.saga import STEP_PROGRESS, SagaResult, run_saga
from backline.orders.settings import OrderSettings


def process_order(job: Job[OrderSettings]) -> SagaResult:
    """Advance the order `order_id` as far as possible."""
    order_id = job.params.required("order_id", int)
    return run_saga(
        job.database, job.provider(), order_id, job.settings, lambda step: job.progress(STEP_PROGRESS[step], step)
    )
