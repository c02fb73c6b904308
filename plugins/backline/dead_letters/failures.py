"""Class and cause of a failure, from its exception or from the task's log."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from backline import errors
from backline.db.connect import to_storable, translate_error
from backline.errors import BacklineError, FailureClass
from backline.jobs.watchdog import HARD_LIMIT, MEMORY_LIMIT

WHOLE_RUN = ""
"""The task id of a failure of the run as a whole."""
NOT_MAPPED = -1
MAX_CAUSE_LENGTH = 4096
REPORTED, FROM_LOG, INFERRED = 2, 1, 0
"""How class and cause are known; the higher one replaces the lower."""

_EXCEPTION_NAMES = {
    FailureClass.TIMEOUT: ("AirflowTaskTimeout", "TaskDeferralTimeout", "AirflowSensorTimeout", "TimeoutError"),
    FailureClass.RESOURCE: ("MemoryError",),
    FailureClass.VALIDATION: ("ValidationError", "ParamValidationError"),
    FailureClass.NETWORK: ("ConnectionError", "ConnectionRefusedError", "ConnectionResetError", "BrokenPipeError",
                           "gaierror", "ConnectError", "ReadError", "RemoteProtocolError"),
}  # fmt: skip
_CLASS_BY_EXCEPTION_NAME = {
    kind.__name__: kind.failure_class
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, BacklineError)
} | {name: failure_class for failure_class, names in _EXCEPTION_NAMES.items() for name in names}
_RESOURCE_ERRNOS = frozenset({errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EDQUOT})
_CLASS_BY_HTTP_STATUS = {401: FailureClass.AUTHENTICATION, 403: FailureClass.AUTHENTICATION, 408: FailureClass.TIMEOUT,
         425: FailureClass.RATE_LIMITED, 429: FailureClass.RATE_LIMITED, 504: FailureClass.TIMEOUT}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed task of a run, or (task id empty) a run that failed as a whole."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    failure_class: FailureClass
    cause: str
    certainty: int
    attempts: int
    conf: Mapping[str, object]
    log_url: str | None
    failed_at: datetime


@dataclass(frozen=True, slots=True)
class ImportFailure:
    """A DAG file that cannot be imported."""

    bundle: str | None
    file: str
    traceback: str
    failed_at: datetime


def classify(exception: BaseException) -> FailureClass:
    """The failure class of any exception; that of the exception which caused it if it has none itself."""
    for error in _exception_chain(exception):
        found = _classify_one(error)
        if found is not FailureClass.UNKNOWN:
            return found
    return FailureClass.UNKNOWN


def format_cause(exception: BaseException) -> str:
    """The exception in one line: the text of Backline's errors, type and text of all others."""
    name = type(exception).__name__
    try:
        text = to_storable(" ".join(str(exception).split()))
    except Exception:  # noqa: BLE001 - an exception of the job whose text cannot be built
        text = "its text could not be built"
    if isinstance(exception, BacklineError) and text:
        return text[:MAX_CAUSE_LENGTH]
    return (f"{name}: {text}" if text else name)[:MAX_CAUSE_LENGTH]


def classify_log(events: Sequence[Mapping[str, Any]]) -> tuple[FailureClass, str] | None:
    """Class and cause from the log of one try, by its newest evidence; None if there is none."""
    killed: tuple[FailureClass, str] | None = None
    for event in reversed(events):
        text = str(event.get("event", ""))
        if HARD_LIMIT in text:
            return FailureClass.TIMEOUT, text
        if MEMORY_LIMIT in text:
            return FailureClass.RESOURCE, text
        if name := event.get("signal_name"):
            # An earlier event may name the limit that led to the signal.
            killed = FailureClass.UNKNOWN, f"the task's process was killed by {name}: out of memory, or by hand"
        elif killed is None and (details := event.get("error_detail")):
            kind, value = str(details[0].get("exc_type", "")), str(details[0].get("exc_value", ""))
            found = _CLASS_BY_EXCEPTION_NAME.get(kind.rpartition(".")[2], FailureClass.UNKNOWN)
            return found, f"{kind}: {' '.join(value.split())}"[:MAX_CAUSE_LENGTH]
    return killed


def _exception_chain(exception: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = exception
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _classify_one(error: BaseException) -> FailureClass:
    if isinstance(error, BacklineError):
        return error.failure_class
    if isinstance(error, psycopg.Error):
        return translate_error(error).failure_class
    if isinstance(error, OSError) and error.errno in _RESOURCE_ERRNOS:
        return FailureClass.RESOURCE
    if isinstance(error, TimeoutError):
        return FailureClass.TIMEOUT
    if isinstance(error, ConnectionError | socket.gaierror):
        return FailureClass.NETWORK
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        rejected = FailureClass.REJECTED if 400 <= status < 500 else FailureClass.UNKNOWN
        return _CLASS_BY_HTTP_STATUS.get(status, rejected)
    for kind in type(error).__mro__:
        if kind.__name__ in _CLASS_BY_EXCEPTION_NAME:
            return _CLASS_BY_EXCEPTION_NAME[kind.__name__]
        if kind.__name__.endswith("Timeout"):
            return FailureClass.TIMEOUT
    return FailureClass.UNKNOWN
