"""Renews what is due, in a process that a test can kill: the database's address in DSN, the moment in NOW."""

from __future__ import annotations

import json
import os
from datetime import datetime

from backline.db.connect import session
from backline.settings import settings
from backline.subscriptions.process_due_subscriptions import renew_chunk
from backline.subscriptions.settings import SubscriptionSettings

if __name__ == "__main__":
    with session(os.environ["DSN"], name="worker") as connection:
        now = datetime.fromisoformat(os.environ["NOW"])
        tally = renew_chunk(connection, 1, 2**62, now, settings().section(SubscriptionSettings))
    print(json.dumps(tally.as_dict()))  # noqa: T201
