"""Celery with Redis: one task per message, in the two measured forms."""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator"
from __future__ import annotations

import os
import smtplib
from typing import Any

from celery import Celery

from bench.peers.emails import SENDER, build_fast, build_with_emailmessage

SMTP_PORT = int(os.environ["BENCH_SMTP_PORT"])
app = Celery("bench", broker=os.environ["BENCH_REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)
_connection: smtplib.SMTP | None = None


@app.task(name="send_as_written")
def send_simple(to: str, data: dict[str, Any]) -> None:
    """As the five systems do it: EmailMessage, and a new connection per email."""
    message = build_with_emailmessage(to, data)
    with smtplib.SMTP("127.0.0.1", SMTP_PORT) as server:
        server.send_message(message)


@app.task(name="send_at_its_best")
def send_optimized(to: str, data: dict[str, Any]) -> None:
    """With a persistent connection per worker process, and the fast builder."""
    global _connection  # noqa: PLW0603 - one per worker process
    if _connection is None:
        _connection = smtplib.SMTP("127.0.0.1", SMTP_PORT)
    try:
        _connection.sendmail(SENDER, [to], build_fast(to, data))
    except smtplib.SMTPServerDisconnected:
        _connection = None
        raise
