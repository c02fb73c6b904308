"""The retry policy, a pure function: when to try again, or never."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import Field, PositiveFloat

from backline.errors import FailureClass
from backline.settings import RetrySettings


class ScheduledRetry(RetrySettings):
    """Pauses by a list: the first one after the first try, the last one after every try beyond its end."""

    schedule: tuple[PositiveFloat, ...] = Field(min_length=1)

    def backoff_seconds(self, attempt: int) -> float:
        """As listed."""
        return self.schedule[min(attempt, len(self.schedule)) - 1]


def retry_delay(
    policies: Mapping[FailureClass, RetrySettings],
    failure_class: FailureClass,
    attempt: int,
    max_attempts: int,
    retry_after: float | None,
    random: Callable[[], float],
) -> float | None:
    """Seconds until the next try, or None when there is none.

    `attempt` is the try that just failed, from 1. A class without a policy is permanent. `retry_after` (seconds)
    is the far side's wish: it is followed from zero up to the class's cap, and never made shorter than it says by
    jitter. `random` gives numbers in [0, 1).
    """
    policy = policies.get(failure_class)
    if policy is None or attempt >= max_attempts:
        return None
    if retry_after is not None:
        return min(max(retry_after, 0.0), policy.max_delay_seconds) * (1 + policy.jitter * random())
    return min(policy.backoff_seconds(attempt) * (1 + policy.jitter * (2 * random() - 1)), policy.max_delay_seconds)
