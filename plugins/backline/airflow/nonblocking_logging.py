"""Logging that never blocks its caller.

A task's log goes through a pipe to a process that writes it to disk. While that disk is full nothing reads the pipe, and
the next line would block for ever: a dispatcher would stop with leased messages.
"""

from __future__ import annotations

import contextlib
import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from logging.handlers import QueueHandler, QueueListener

QUEUE_SIZE = 10_000
"""Lines that may wait to be written; further ones are dropped."""
FLUSH_TIMEOUT_SECONDS = 1.0


@contextmanager
def nonblocking_logging(name: str = "backline") -> Iterator[None]:
    """Within this context a thread writes the lines of that logger and of those below it."""
    logger, waiting = logging.getLogger(name), queue.Queue[logging.LogRecord](QUEUE_SIZE)
    listener = _Listener(waiting, *_effective_handlers(logger), respect_handler_level=True)
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_DroppingQueueHandler(waiting)], False
    listener.start()
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        listener.stop()


class _DroppingQueueHandler(QueueHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the line: the queue is full. Reporting that could block as well."""


class _Listener(QueueListener):
    """Runs the handlers in the context of its creator: Airflow finds the task's log by a context variable."""

    def __init__(self, *args: object, **options: bool) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._context = copy_context()

    def handle(self, record: logging.LogRecord) -> None:
        self._context.run(super().handle, record)

    def stop(self) -> None:
        """Write what waits, for at most `FLUSH_TIMEOUT_SECONDS`."""
        thread, self._thread = self._thread, None
        with contextlib.suppress(queue.Full):
            self.enqueue_sentinel()
            if thread is not None:
                thread.join(FLUSH_TIMEOUT_SECONDS)


def _effective_handlers(logger: logging.Logger) -> list[logging.Handler]:
    found = list(logger.handlers)
    while logger.propagate and logger.parent is not None:
        logger = logger.parent
        found += logger.handlers
    return found
