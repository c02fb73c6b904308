"""Class and cause of a failure, from exceptions and from logs."""

from __future__ import annotations

import errno
import socket

import httpx
import psycopg
import pytest

from backline.dead_letters.failures import classify, classify_log, format_cause
from backline.errors import FailureClass, InvalidInput, Misconfigured, NetworkFailure, RateLimited, Rejected
from backline.jobs.watchdog import HARD_LIMIT


class AirflowTaskTimeout(Exception):
    """Has the name of Airflow's exception, which this layer cannot import."""


def http(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://x.test")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NetworkFailure(), "network"),
        (RateLimited(), "rate_limited"),
        (InvalidInput("to", "is wrong"), "validation"),
        (Misconfigured("x"), "unknown"),
        (AirflowTaskTimeout(), "timeout"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "network"),
        (socket.gaierror(), "network"),
        (httpx.ConnectError("x"), "network"),
        (httpx.ReadTimeout("x"), "timeout"),
        (http(401), "authentication"),
        (http(404), "rejected"),
        (http(410), "rejected"),
        (http(408), "timeout"),
        (http(429), "rate_limited"),
        (http(503), "unknown"),
        (psycopg.OperationalError("gone"), "database"),
        (psycopg.errors.DeadlockDetected(), "database"),
        (psycopg.errors.UndefinedTable(), "unknown"),
        (MemoryError(), "resource"),
        (OSError(errno.ENOSPC, "full"), "resource"),
        (ValueError("x"), "unknown"),
    ],
    ids=repr,
)
def test_the_class_of_an_exception(error: BaseException, expected: str) -> None:
    assert classify(error) == expected


def test_an_unclassified_exception_has_the_class_of_its_cause() -> None:
    wrapped = RuntimeError("task failed")
    wrapped.__cause__ = Rejected("550 no such user")
    assert classify(wrapped) is FailureClass.REJECTED


def test_the_cause_is_one_line() -> None:
    assert format_cause(InvalidInput("to", "is wrong")) == "to: is wrong"
    assert format_cause(ValueError("two\nlines")) == "ValueError: two lines"
    assert format_cause(KeyError()) == "KeyError"
    assert len(format_cause(ValueError("x" * 9999))) == 4096


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], None),
        ([{"event": "all is well"}], None),
        ([{"error_detail": [{"exc_type": "AirflowTaskTimeout", "exc_value": "Timeout, PID: 1"}]}, {"event": "x"}],
         (FailureClass.TIMEOUT, "AirflowTaskTimeout: Timeout, PID: 1")),
        ([{"event": "Process terminated by signal. Likely out of memory error (OOM).", "signal": -9, "signal_name": "SIGKILL"}],
         (FailureClass.UNKNOWN, "the task's process was killed by SIGKILL: out of memory, or by hand")),
        ([{"event": f"{HARD_LIMIT} of 5 s is over; the task is killed"}, {"event": "x", "signal_name": "SIGKILL"}],
         (FailureClass.TIMEOUT, f"{HARD_LIMIT} of 5 s is over; the task is killed")),
        ([{"error_detail": [{"exc_type": "ValueError", "exc_value": "caught"}]}, {"event": "x", "signal_name": "SIGSEGV"}],
         (FailureClass.UNKNOWN, "the task's process was killed by SIGSEGV: out of memory, or by hand")),
    ],
)  # fmt: skip
def test_class_and_cause_are_read_from_a_log(events: list[dict[str, object]], expected: object) -> None:
    assert classify_log(events) == expected


def test_the_newest_evidence_is_used() -> None:
    older = {"event": "Task failed", "error_detail": [{"exc_type": "ValueError", "exc_value": "first"}]}
    newer = {"event": "Task failed", "error_detail": [{"exc_type": "ValueError", "exc_value": "second"}]}
    assert classify_log([older, newer]) == (FailureClass.UNKNOWN, "ValueError: second")
