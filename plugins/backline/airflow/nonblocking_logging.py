"""Logs that keep nobody waiting.

A task's log goes through a pipe to a process that writes it to a disk. When that disk is full the other end stops to read,
and whoever writes the next line waits for ever: a dispatcher would stand still, with messages in hand.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from logging.handlers import QueueHandler

QUEUE_SIZE = 10_000
"""Lines that may wait to be written; those beyond are dropped."""
FLUSH_TIMEOUT_SECONDS = 1.0
"""How long the last lines are waited for."""


@contextmanager
def nonblocking_logging(name: str = "backline") -> Iterator[None]:
    """Inside of it a thread of its own writes what that logger and those below it say."""
    logger, waiting = logging.getLogger(name), queue.Queue[logging.LogRecord | None](QUEUE_SIZE)
    writing = threading.Thread(
        # With the context's variables: Airflow tells by them whose log it is.
        target=copy_context().run,
        args=(_write_records, waiting, _effective_handlers(logger)),
        name=f"{name} log",
        daemon=True,
    )
    before, logger.handlers, propagate, logger.propagate = (
        logger.handlers,
        [_DroppingQueueHandler(waiting)],
        logger.propagate,
        False,
    )
    writing.start()
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagate
        with contextlib.suppress(queue.Full):
            waiting.put_nowait(None)
            writing.join(FLUSH_TIMEOUT_SECONDS)


class _DroppingQueueHandler(QueueHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """The queue is full: the line is dropped. To say so could wait as well."""


def _effective_handlers(logger: logging.Logger) -> list[logging.Handler]:
    """All that the logger's lines come to."""
    found: list[logging.Handler] = []
    while True:
        found += logger.handlers
        if not logger.propagate or logger.parent is None:
            return found
        logger = logger.parent


def _write_records(waiting: queue.Queue[logging.LogRecord | None], handlers: Sequence[logging.Handler]) -> None:
    while (record := waiting.get()) is not None:
        for handler in handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
