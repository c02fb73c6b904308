"""Asking the dispatchers to stop, before the processes around them are ended."""

from __future__ import annotations

import time

import psycopg

from backline.db.connect import translate_errors
from backline.db.statements import statement
from backline.settings import settings

STOP_POLL_INTERVAL_SECONDS = 0.1


def stop_dispatchers(dsn: str, timeout: float = 10.0) -> bool:
    """Ask every dispatcher to return its leases and end; True once none lives, False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    alive = {"heartbeat_timeout": settings().outbox.heartbeat_timeout_seconds}
    with translate_errors(), psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            connection.execute(statement("outbox", "dispatcher_stop_all"))
            row = connection.execute(statement("outbox", "dispatcher_count"), alive).fetchone()
            if row is None or row[0] == 0:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(STOP_POLL_INTERVAL_SECONDS)
