"""Every error that Backline raises, in one tree.

BacklineError
├── RetryableError          may go well later; the retry policy of its class decides when
│   ├── TimeoutFailure      timeout       the far side did not answer in time
│   ├── NetworkFailure      network       could not connect, or the connection broke
│   ├── DatabaseFailure     database      a transient SQLSTATE
│   ├── RateLimited         rate_limited  the far side asked us to slow down
│   ├── ResourceExhausted   resource      the far side, or this host, is out of something
│   └── UnknownFailure      unknown       nothing better is known
├── PermanentError          will never go well as it is; never retried
│   ├── InvalidInput        validation      a named field is wrong
│   ├── AuthenticationFailed authentication  our credentials were refused
│   └── Rejected            rejected        the far side refused this message for good
├── Skipped                 unknown       a job has nothing to work on; its task is skipped
└── Misconfigured           unknown       a setting is wrong; names the setting and the fix
    └── NotConfigured       unknown       a connection that is needed is not there

The classes, and what each one's policy is, follow the catalogue's failure table (docs/messages.md).
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class FailureClass(StrEnum):
    """Why a try failed, in the words that the outbox stores and people filter by."""

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
    """Something went wrong in Backline.

    `code` is the far side's own code where it gave one ("451 4.3.0", "503"), `response` what it
    said, cut to 4 kB by whoever stores it. Neither may hold a secret.
    """

    failure_class: ClassVar[FailureClass] = FailureClass.UNKNOWN

    def __init__(self, message: str | None = None, *, code: str | None = None, response: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n")[0].rstrip("."))
        self.code = code
        self.response = response


class RetryableError(BacklineError):
    """It failed now and may go well later.

    `retry_after` is the far side's own wish, in seconds, or None.
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
    """The far side did not answer in time."""

    failure_class = FailureClass.TIMEOUT


class NetworkFailure(RetryableError):
    """Could not connect, or the connection broke."""

    failure_class = FailureClass.NETWORK


class DatabaseFailure(RetryableError):
    """The database was not available, or asked for the transaction to be run again."""

    failure_class = FailureClass.DATABASE


class RateLimited(RetryableError):
    """The far side asked us to slow down."""

    failure_class = FailureClass.RATE_LIMITED


class ResourceExhausted(RetryableError):
    """The far side, or this host, is out of something."""

    failure_class = FailureClass.RESOURCE


class UnknownFailure(RetryableError):
    """It failed, and nothing better is known."""

    failure_class = FailureClass.UNKNOWN


class PermanentError(BacklineError):
    """It will never go well as it is: it is not retried."""

    failure_class = FailureClass.REJECTED


class InvalidInput(PermanentError):
    """A field is wrong. `field` names it, dotted for nested ones; the text says how to mend it."""

    failure_class = FailureClass.VALIDATION

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class AuthenticationFailed(PermanentError):
    """Our credentials were refused."""

    failure_class = FailureClass.AUTHENTICATION


class Rejected(PermanentError):
    """The far side refused this message for good."""

    failure_class = FailureClass.REJECTED


class Misconfigured(BacklineError):
    """A setting is wrong. The text names the setting and the fix.

    Of class unknown, so that a message that meets it is tried again once somebody has mended the setting.
    """

    failure_class = FailureClass.UNKNOWN


class Skipped(BacklineError):
    """There is nothing that the job could do now. The text says why, and what to provide; the task is skipped."""


class NotConfigured(Misconfigured):
    """A connection that is needed is not there. The text says how to add it."""
