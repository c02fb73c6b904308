from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.errors import PERMANENT_CLASSES, FailureClass
from backline.outbox.delivery import retry_delay
from backline.settings import ROOT, RetrySettings, ScheduledRetry, Settings, load

policies = st.builds(
    RetrySettings,
    initial_delay_seconds=st.floats(0.1, 3600),
    multiplier=st.floats(1, 10),
    max_delay_seconds=st.floats(0.1, 86_400),
    jitter=st.floats(0, 0.99),
)
attempts = st.integers(1, 1000)
randoms = st.floats(0, 1, exclude_max=True)
transient = st.sampled_from(sorted(set(FailureClass) - PERMANENT_CLASSES))


@pytest.fixture(scope="module")
def shipped() -> Settings:
    return load(ROOT / "include" / "config" / "backline.toml")


def delay(policy: RetrySettings, attempt: int, random: float, retry_after: float | None = None) -> float:
    made = retry_delay(
        {FailureClass.UNKNOWN: policy}, FailureClass.UNKNOWN, attempt, 10_000, retry_after, lambda: random
    )
    assert made is not None
    return made


@given(policies, attempts, randoms)
def test_within_jitter_and_under_the_cap(policy: RetrySettings, attempt: int, random: float) -> None:
    base = policy.initial_delay_seconds * policy.multiplier ** min(attempt - 1, 64)
    made = delay(policy, attempt, random)
    assert made <= policy.max_delay_seconds
    assert made <= base * (1 + policy.jitter) * (1 + 1e-9)
    assert made >= min(base * (1 - policy.jitter) * (1 - 1e-9), policy.max_delay_seconds)
    assert made > 0


@given(policies, attempts)
def test_never_shorter_for_a_later_attempt(policy: RetrySettings, attempt: int) -> None:
    assert delay(policy, attempt, 0.5) <= delay(policy, attempt + 1, 0.5)


@given(st.floats(0.01, 0.99), randoms, randoms)
def test_jitter_spreads(jitter: float, one: float, other: float) -> None:
    policy = RetrySettings(initial_delay_seconds=60, max_delay_seconds=600, jitter=jitter)
    spread = delay(policy, 1, one) - delay(policy, 1, other)
    assert spread == pytest.approx(60 * jitter * 2 * (one - other), abs=1e-6)


@given(policies, transient, st.integers(1, 50), st.integers(0, 10), randoms, st.none() | st.floats(0, 1e6))
def test_no_attempt_follows_the_last(
    policy: RetrySettings, kind: FailureClass, most: int, over: int, random: float, wish: float | None
) -> None:
    known = {kind: policy}
    assert retry_delay(known, kind, most + over, most, wish, lambda: random) is None
    if most > 1:
        assert retry_delay(known, kind, most - 1, most, wish, lambda: random) is not None


@given(st.sampled_from(sorted(PERMANENT_CLASSES)), randoms, st.none() | st.floats(0, 1e6))
def test_permanent_classes_are_never_retried(kind: FailureClass, random: float, wish: float | None) -> None:
    assert retry_delay(Settings(lanes={}).retry, kind, 1, 6, wish, lambda: random) is None


@given(policies, attempts, randoms, st.floats(-1e6, 1e9))
def test_the_providers_retry_after_is_followed_limited_and_never_shorter_than_our_own_delay(
    policy: RetrySettings, attempt: int, random: float, wish: float
) -> None:
    followed, own = min(max(wish, 0), policy.max_delay_seconds), delay(policy, attempt, random)
    made = delay(policy, attempt, random, wish)
    assert max(own, followed) <= made <= max(own, followed * (1 + policy.jitter))


def test_attempts_at_a_provider_that_asks_for_no_delay_take_as_long_as_ours(shipped: Settings) -> None:
    asked = [retry_delay(shipped.retry, FailureClass.RATE_LIMITED, n, 8, 0.0, lambda: 0.5) for n in range(1, 8)]
    assert asked == [
        retry_delay(shipped.retry, FailureClass.RATE_LIMITED, n, 8, None, lambda: 0.5) for n in range(1, 8)
    ]


# docs/messages.md: class, then the delays in the middle of the jitter before attempts 2 to 7.
TABLE: dict[FailureClass, list[float | None]] = {
    FailureClass.TIMEOUT: [60, 120, 240, 480, 600, 600],
    FailureClass.NETWORK: [60, 120, 240, 480, 600, 600],
    FailureClass.DATABASE: [5, 10, 20, 40, 60, 60],
    FailureClass.RATE_LIMITED: [60, 120, 240, 480, 600, 600],
    FailureClass.RESOURCE: [300, 600, 1200, 1800, 1800, 1800],
    FailureClass.UNKNOWN: [60, 120, 240, 480, 600, 600],
    FailureClass.VALIDATION: [None] * 6,
    FailureClass.AUTHENTICATION: [None] * 6,
    FailureClass.REJECTED: [None] * 6,
}


@pytest.mark.parametrize("kind", list(FailureClass))
def test_the_shipped_policies_are_the_catalogues(shipped: Settings, kind: FailureClass) -> None:
    assert [retry_delay(shipped.retry, kind, n, 50, None, lambda: 0.5) for n in range(1, 7)] == TABLE[kind]


@pytest.mark.parametrize("kind", sorted(set(FailureClass) - PERMANENT_CLASSES))
def test_the_shipped_jitter_is_a_fifth(shipped: Settings, kind: FailureClass) -> None:
    first = TABLE[kind][0]
    assert first is not None
    assert retry_delay(shipped.retry, kind, 1, 6, None, lambda: 0.0) == pytest.approx(first * 0.8)
    assert retry_delay(shipped.retry, kind, 1, 6, None, lambda: 0.999999) == pytest.approx(first * 1.2, rel=1e-4)


def test_the_default_number_of_attempts(shipped: Settings) -> None:
    attempts = {lane.channel: lane.max_attempts for lane in shipped.lanes.values()}
    assert attempts == attempts | {"email": 6, "sms": 4, "push": 4, "webhook": 8}


def test_a_schedule_is_followed_and_its_last_delay_repeats() -> None:
    policy = ScheduledRetry(schedule=(5, 300, 36_000), max_delay_seconds=36_000, jitter=0.0)
    assert [delay(policy, attempt, 0.5) for attempt in range(1, 6)] == [5, 300, 36_000, 36_000, 36_000]
    assert delay(policy, 1, 0.5, retry_after=900) == 900
    assert delay(policy, 1, 0.5, retry_after=1e9) == 36_000
