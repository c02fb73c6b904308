"""Charges one order."""

from __future__ import annotations

from dataclasses import asdict

from backline.jobs.job import Job
from backline.payments.charges import charge
from backline.payments.events import apply_waiting_events
from backline.payments.settings import PaymentSettings


def process_payment(job: Job[PaymentSettings]) -> dict[str, object]:
    """Charge the order `order_id`, or find out that it was charged; returns the state of its payment."""
    order_id = job.params.required("order_id", int)
    apply_waiting_events(job.database, order_id, job.now)
    return {"order_id": order_id, **asdict(charge(job.database, job.provider(), order_id))}
