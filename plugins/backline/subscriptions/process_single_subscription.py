"""Renews one subscription."""

from __future__ import annotations

from backline.jobs.job import Job
from backline.subscriptions.renewal import Renewal, renew
from backline.subscriptions.settings import SubscriptionSettings


def process_single_subscription(job: Job[SubscriptionSettings]) -> Renewal:
    """Renew the subscription `subscription_id`, if it is due."""
    return renew(job.database, job.params.required("subscription_id", int), job.now, job.settings)
