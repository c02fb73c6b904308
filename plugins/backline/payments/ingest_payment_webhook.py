"""Applies the stored events of payment providers to payments and orders, in the order in which they occurred."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from backline.db.statements import statement
from backline.errors import Rejected
from backline.jobs.batch import BatchResult, with_unsent
from backline.jobs.job import Job
from backline.payments.events import NotReady, StoredEvent, UnknownPayment, ignore_event, process_event
from backline.payments.repository import transaction
from backline.payments.settings import PaymentSettings

BATCH_LIMIT = 1_000
PAGE_SIZE = 100


def ingest_payment_webhook(job: Job[PaymentSettings]) -> BatchResult:
    """Process up to `BATCH_LIMIT` waiting events; one whose dead letter was discarded counts as processed."""
    with transaction(job.database):
        job.database.execute(statement("payments", "event_dismiss"), {"job": job.name})
    return job.run_each(
        _waiting_events(job), lambda event: _process_event(job, event),
        key=lambda event: f"{event.provider} {event.event_id}", limit=BATCH_LIMIT, transactional=False,
    )  # fmt: skip


def _waiting_events(job: Job[PaymentSettings]) -> Iterator[StoredEvent]:
    occurred_at, last_id = datetime.min.replace(tzinfo=UTC), 0
    while True:
        values = {"occurred_at": occurred_at, "id": last_id, "batch_limit": PAGE_SIZE}
        page = job.items(statement("payments", "event_list_waiting"), StoredEvent, values)
        yield from page
        if len(page) < PAGE_SIZE:
            return
        occurred_at, last_id = page[-1].occurred_at, page[-1].id


def _process_event(job: Job[PaymentSettings], event: StoredEvent) -> str | tuple[str, ...]:
    """Process one event; returns the outcomes to count. One that is not ready waits for a later run, up to `event_max_wait_hours`."""
    try:
        applied = process_event(job.database, event, job.now)
    except NotReady as exc:
        max_wait_hours = job.settings.event_max_wait_hours
        if job.now - event.received_at <= timedelta(hours=max_wait_hours):
            return "waiting"
        if isinstance(exc, UnknownPayment):
            ignore_event(job.database, event)
            return "ignored"
        raise Rejected(f"{exc}; waited for {max_wait_hours:.0f} hours") from exc
    return with_unsent(applied.outcome, applied.unsent_messages)
