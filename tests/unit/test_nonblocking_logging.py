"""A log that is no longer read does not block its writers."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TextIO

import pytest

from backline.airflow.nonblocking_logging import QUEUE_SIZE, nonblocking_logging

NAME = "backline.tests.logs"
OWNER: ContextVar[str] = ContextVar("owner", default="unset")


class RecordingHandler(logging.Handler):
    """The lines, each with the context variable that its handler saw."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{OWNER.get()}: {record.getMessage()}")


class BrokenHandler(logging.StreamHandler[TextIO]):
    """Writes to a closed pipe."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.getLogger(NAME)
    made.setLevel(logging.INFO)
    made.propagate = False
    yield made
    made.handlers, made.propagate = [], True


def test_lines_keep_their_order_and_context(logger: logging.Logger) -> None:
    kept = RecordingHandler()
    logger.addHandler(kept)
    OWNER.set("ours")
    with nonblocking_logging(NAME):
        logging.getLogger(f"{NAME}.below").info("one of %d", 2)
        logger.debug("not wanted")
        logger.info("two")
    assert kept.lines == ["ours: one of 2", "ours: two"]
    assert kept in logger.handlers
    logger.info("three")
    assert kept.lines[2:] == ["ours: three"]


def test_a_pipe_that_is_not_read_does_not_block(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    reading, writing = os.pipe()
    with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "w", encoding="utf-8") as pipe:
        logger.addHandler(BrokenHandler(pipe))
        with nonblocking_logging(NAME):
            for number in range(2 * QUEUE_SIZE):  # far more than the pipe and the queue hold
                logger.info("message %d: %s", number, "x" * 100)
        os.close(reading)


def test_the_level_of_a_handler_is_respected(logger: logging.Logger) -> None:
    kept = RecordingHandler()
    kept.setLevel(logging.WARNING)
    logger.addHandler(kept)
    with nonblocking_logging(NAME):
        logger.info("no")
        logger.warning("yes")
    assert [line.partition(": ")[2] for line in kept.lines] == ["yes"]
