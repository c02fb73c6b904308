"""Processes the stored events of payment providers in the order in which they occurred."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from backline.db.statements import statement
from backline.errors import Rejected
from backline.jobs.batch import BatchResult
from backline.jobs.job import Job
from backline.payments.repository import transaction
from backline.payments.settings import PaymentSettings
from backline.payments.webhook_events import NotReady, StoredEvent, apply_event

BATCH_LIMIT = 1_000
PAGE_SIZE = 500
MAX_PROBLEM_LENGTH = 500


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """An event that is not processed yet."""

    id: int
    provider: str
    event_id: str
    occurred_at: datetime

    @property
    def key(self) -> str:
        """The event's name in results and dead letters."""
        return f"{self.provider} {self.event_id}"


def ingest_payment_webhook(job: Job[PaymentSettings]) -> BatchResult:
    """Process up to `BATCH_LIMIT` waiting events; one whose dead letter was discarded counts as processed."""
    with transaction(job.database) as run:
        run("event_dismiss", job=job.name)
    return job.run_each(
        _waiting_events(job), lambda event: _process_event(job, event), key=lambda event: event.key,
        limit=BATCH_LIMIT, transactional=False,
    )  # fmt: skip


def _waiting_events(job: Job[PaymentSettings]) -> Iterator[WaitingEvent]:
    occurred_at, event_id = datetime.min.replace(tzinfo=UTC), 0
    while True:
        values = {"occurred_at": occurred_at, "id": event_id, "batch_limit": PAGE_SIZE}
        page = job.rows(statement("payments", "event_list_waiting"), WaitingEvent, values)
        yield from page
        if len(page) < PAGE_SIZE:
            return
        occurred_at, event_id = page[-1].occurred_at, page[-1].id


def _process_event(job: Job[PaymentSettings], event: WaitingEvent) -> str:
    """Apply one event in a transaction of its own; returns the outcome.

    An event that is not ready waits for a later run, up to `event_max_wait_hours`. The problem of any other failure is
    stored with the event, so that the event does not start another run.
    """
    waited_hours = 0.0
    try:
        with transaction(job.database) as run:
            rows = run("event_claim", id=event.id)
            if not rows:
                return "claimed"  # by another run
            waited_hours = rows[0]["waited_hours"]
            outcome, payment_id = apply_event(job.database, run, StoredEvent(**rows[0]), job.now)
            run("event_finish", id=event.id, payment_id=payment_id)
            return outcome
    except Exception as exc:
        if not job.database.closed:
            with transaction(job.database) as run:
                run("event_set_problem", id=event.id, problem=str(exc).split("\n", 1)[0][:MAX_PROBLEM_LENGTH])
        if not isinstance(exc, NotReady):
            raise
        if waited_hours > job.settings.event_max_wait_hours:
            raise Rejected(f"{exc}; waited for {waited_hours:.0f} hours") from exc
        return "waiting"
