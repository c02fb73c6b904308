"""Every error that Backline raises, in one tree.

BacklineError
├── RetryableError          may succeed later; the retry policy of its class decides when
│   ├── TimeoutFailure      timeout       no response in time
│   ├── NetworkFailure      network       could not connect, or the connection broke
│   ├── DatabaseFailure     database      a transient SQLSTATE
│   ├── RateLimited         rate_limited  the receiver asked us to slow down
│   ├── ResourceExhausted   resource      the receiver, or this host, ran out of a resource
│   └── UnknownFailure      unknown       the cause is not known
├── PermanentError          cannot succeed unchanged; never retried
│   ├── InvalidInput        validation      a named field is wrong
│   ├── AuthenticationFailed authentication  our credentials were refused
│   └── Rejected            rejected        the receiver refused this message permanently
├── Skipped                 unknown       a job has nothing to work on; its task is skipped
└── Misconfigured           unknown       a setting is wrong; names the setting and the fix
    └── NotConfigured       unknown       a connection that is needed is not there

The classes, and what each one's policy is, follow the catalogue's failure table (docs/messages.md).
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class FailureClass(StrEnum):
    """Why an attempt failed: stored in the outbox, and usable as a filter."""

    TIMEOUT = "timeout"
    NETWORK = "network"
    DATABASE = "database"
    RATE_LIMITED = "rate_limited"
    VALIDATION = "validation"
    AUTHENTICATION = "authentication"
    RESOURCE = "resource"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


PERMANENT_CLASSES = frozenset({FailureClass.VALIDATION, FailureClass.AUTHENTICATION, FailureClass.REJECTED})
"""Never retried."""


class BacklineError(Exception):
    """An error in Backline.

    `code` is the receiver's own code if it gave one ("451 4.3.0", "503"), `response` the text of its response, which is
    cut to 4 kB when it is stored. Neither may hold a secret.
    """

    failure_class: ClassVar[FailureClass] = FailureClass.UNKNOWN

    def __init__(self, message: str | None = None, *, code: str | None = None, response: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n")[0].rstrip("."))
        self.code = code
        self.response = response


class RetryableError(BacklineError):
    """It failed now and may succeed later.

    `retry_after` is the delay in seconds that the receiver asked for, or None.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        response: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, response=response)
        self.retry_after = retry_after


class TimeoutFailure(RetryableError):
    """The receiver did not respond in time."""

    failure_class = FailureClass.TIMEOUT


class NetworkFailure(RetryableError):
    """Could not connect, or the connection broke."""

    failure_class = FailureClass.NETWORK


class DatabaseFailure(RetryableError):
    """The database was not available, or the transaction has to be run again."""

    failure_class = FailureClass.DATABASE


class RateLimited(RetryableError):
    """The receiver asked us to slow down."""

    failure_class = FailureClass.RATE_LIMITED


class ResourceExhausted(RetryableError):
    """The receiver, or this host, ran out of a resource."""

    failure_class = FailureClass.RESOURCE


class UnknownFailure(RetryableError):
    """It failed for an unknown reason."""


class PermanentError(BacklineError):
    """It cannot succeed unchanged, so it is not retried."""

    failure_class = FailureClass.REJECTED


class InvalidInput(PermanentError):
    """A field is wrong. `field` is its name, dotted if nested; the text says how to fix it."""

    failure_class = FailureClass.VALIDATION

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class AuthenticationFailed(PermanentError):
    """Our credentials were refused."""

    failure_class = FailureClass.AUTHENTICATION


class Rejected(PermanentError):
    """The receiver refused this message permanently."""


class Misconfigured(BacklineError):
    """A setting is wrong. The text names the setting and the fix.

    Its class is unknown, so a message that fails with it is attempted again: it succeeds once the setting is fixed.
    """


class Skipped(BacklineError):
    """The job has nothing to do now, so its task is skipped. The text says why, and what to provide."""


class NotConfigured(Misconfigured):
    """A required connection is missing. The text says how to add it."""
