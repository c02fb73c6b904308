from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.outbox.dispatcher import MAX_POLL_INTERVAL_SECONDS, MIN_POLL_INTERVAL_SECONDS, poll_interval
from backline.outbox.recipient_policy import domain_of


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_polls_slower_as_the_lane_ages(one: float, other: float) -> None:
    earlier, later = sorted((one, other))
    assert MIN_POLL_INTERVAL_SECONDS <= poll_interval(earlier) <= poll_interval(later) <= MAX_POLL_INTERVAL_SECONDS


def test_polls_every_few_milliseconds_while_traffic_is_recent() -> None:
    assert poll_interval(0.0) == poll_interval(2.0) == MIN_POLL_INTERVAL_SECONDS


def test_polls_slowly_in_the_end() -> None:
    assert poll_interval(600.0) == poll_interval(math.inf) == 0.25


@pytest.mark.parametrize(
    ("recipient", "domain"),
    [
        ("ann@example.com", "example.com"),
        ("Ann@EXAMPLE.Com", "example.com"),
        ("Ann <ann@example.com>", "example.com"),
        ("Ann @ work <ann@example.com >", "example.com"),
        ("ann@bücher.example", "bücher.example"),
        ("+4912345", ""),
    ],
)
def test_domain_of(recipient: str, domain: str) -> None:
    assert domain_of(recipient) == domain
