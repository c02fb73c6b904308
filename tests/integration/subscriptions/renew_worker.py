"""Renews all due subscriptions in a process that a test can kill: the database's address in DSN, the time in NOW."""

from __future__ import annotations

import os
from datetime import datetime

from backline.settings import settings
from backline.subscriptions.process_due_subscriptions import renew_chunk
from backline.subscriptions.settings import SubscriptionSettings
from tests.integration.job_factory import create_job

if __name__ == "__main__":
    now = datetime.fromisoformat(os.environ["NOW"])
    job = create_job(os.environ["DSN"], settings().section(SubscriptionSettings), name="worker", now=now)
    job.execute(renew_chunk, {"first": 1, "last": 2**62})
