from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.outbox.wakeup_policy import LaneStatus, WakeupPolicy, backlog_count_limit, desired_dispatchers
from backline.settings import LaneSettings

LANE = LaneSettings(channel="email", max_dispatchers=3, backlog_per_dispatcher=100, max_age_seconds=60)


def lane_status(pending: int = 0, head: int | None = None, live: int = 0, handing_over: int = 0) -> LaneStatus:
    return LaneStatus("email.normal", pending, head, 0.0, live, handing_over)


def wakeup_policy(cooldown: float = 5.0) -> WakeupPolicy:
    return WakeupPolicy({"email.normal": LANE, "other": LANE}, cooldown)


@pytest.mark.parametrize(
    ("pending", "handing_over", "wanted"),
    [(0, 0, 0), (1, 0, 1), (100, 0, 1), (101, 0, 2), (300, 0, 3), (100_000, 0, 3), (0, 1, 1), (0, 2, 1), (250, 1, 3)],
)
def test_dispatchers_by_backlog(pending: int, handing_over: int, wanted: int) -> None:
    assert desired_dispatchers(lane_status(pending, handing_over=handing_over), LANE) == wanted


@given(st.integers(0, 10**6), st.integers(0, 3), st.integers(1, 16), st.integers(1, 10**5))
def test_never_more_than_the_lane_has_and_none_for_nothing(
    pending: int, handing_over: int, dispatchers: int, backlog: int
) -> None:
    lane = LaneSettings(channel="email", max_dispatchers=dispatchers, backlog_per_dispatcher=backlog)
    wanted = desired_dispatchers(lane_status(pending, handing_over=handing_over), lane)
    assert 0 <= wanted <= dispatchers
    assert (wanted == 0) == (pending == 0 and not handing_over)


@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(1, 16), st.integers(1, 10**5))
def test_counting_enough_tells_whether_one_more_is_wanted(
    pending: int, live: int, dispatchers: int, backlog: int
) -> None:
    lane = LaneSettings(channel="email", max_dispatchers=dispatchers, backlog_per_dispatcher=backlog)
    counted = min(pending, backlog_count_limit(lane, live))
    assert (live < desired_dispatchers(lane_status(counted), lane)) == (
        live < desired_dispatchers(lane_status(pending), lane)
    )


def test_the_first_message_wakes_the_lane_and_the_cooldown_follows() -> None:
    policy = wakeup_policy()
    assert policy.lanes_to_wake([lane_status(1)], 0.0) == {"email.normal": lane_status(1)}
    assert policy.lanes_to_wake([lane_status(2)], 0.25) == {}
    assert policy.lanes_to_wake([lane_status(2)], 4.9) == {}
    assert policy.lanes_to_wake([lane_status(2)], 5.0) == {"email.normal": lane_status(2)}


def test_a_lane_that_cannot_be_served_is_woken_once_a_minute() -> None:
    policy = wakeup_policy()
    woken_at = [now for now in range(300) if policy.lanes_to_wake([lane_status(1)], float(now))]
    assert woken_at == [0, 5, 15, 35, 75, 135, 195, 255]


def test_a_dispatcher_that_appears_resets_the_cooldown() -> None:
    policy = wakeup_policy()
    for now in range(100):
        policy.lanes_to_wake([lane_status(1)], float(now))
    assert not policy.lanes_to_wake([lane_status(1, live=1)], 100.0)
    assert policy.lanes_to_wake([lane_status(1)], 101.0)
    assert policy.lanes_to_wake([lane_status(1)], 106.0)


def test_a_dispatcher_that_ends_is_replaced_after_the_first_cooldown() -> None:
    policy = wakeup_policy()
    for now in range(100):
        policy.lanes_to_wake([lane_status(300, live=1)], float(now))
    assert policy.lanes_to_wake([lane_status(300, live=0)], 100.0)
    assert not policy.lanes_to_wake([lane_status(300, live=0)], 104.0)
    assert policy.lanes_to_wake([lane_status(300, live=0)], 105.0)


def test_an_empty_lane_is_not_woken() -> None:
    assert wakeup_policy().lanes_to_wake([lane_status(0)], 0.0) == {}


def test_a_lane_with_enough_dispatchers_is_not_woken() -> None:
    assert wakeup_policy().lanes_to_wake([lane_status(100, live=1)], 0.0) == {}


def test_wakes_again_at_once_when_one_appeared_and_more_are_wanted() -> None:
    policy = wakeup_policy()
    assert policy.lanes_to_wake([lane_status(300)], 0.0)
    assert not policy.lanes_to_wake([lane_status(300)], 1.0)
    assert policy.lanes_to_wake([lane_status(300, live=1)], 1.5)
    assert not policy.lanes_to_wake([lane_status(300, live=1)], 2.0)
    assert policy.lanes_to_wake([lane_status(300, live=2)], 2.5)
    assert not policy.lanes_to_wake([lane_status(300, live=3)], 3.0)


def test_new_work_wakes_at_once_after_the_last_was_served() -> None:
    policy = wakeup_policy()
    assert policy.lanes_to_wake([lane_status(1)], 0.0)
    assert not policy.lanes_to_wake([lane_status(0, live=1)], 0.5)
    assert policy.lanes_to_wake([lane_status(1, live=0)], 1.0)


def test_a_message_stuck_at_the_head_wakes_the_lane_despite_live_dispatchers_once_per_cooldown() -> None:
    policy = wakeup_policy()
    assert not policy.lanes_to_wake([lane_status(1, head=7, live=3)], 0.0)
    assert not policy.lanes_to_wake([lane_status(1, head=7, live=3)], 60.0)
    assert policy.lanes_to_wake([lane_status(1, head=7, live=3)], 60.1)
    assert not policy.lanes_to_wake([lane_status(1, head=7, live=3)], 61.0)
    assert policy.lanes_to_wake([lane_status(1, head=7, live=3)], 66.0)


def test_a_moving_backlog_is_not_stuck() -> None:
    policy = wakeup_policy()
    for second in range(200):
        assert not policy.lanes_to_wake([lane_status(50, head=second // 30, live=1)], float(second))


def test_an_empty_lane_is_never_stuck() -> None:
    policy = wakeup_policy()
    assert not policy.lanes_to_wake([lane_status(0, live=1)], 0.0)
    assert not policy.lanes_to_wake([lane_status(0, live=1)], 1000.0)
    assert not policy.lanes_to_wake([lane_status(1, head=7, live=1)], 1001.0)


def test_a_dispatcher_that_hands_over_gets_a_successor() -> None:
    policy = wakeup_policy()
    assert policy.lanes_to_wake([lane_status(0, live=0, handing_over=1)], 0.0)
    assert not policy.lanes_to_wake([lane_status(0, live=1, handing_over=1)], 0.5)


def test_lanes_are_independent() -> None:
    policy = wakeup_policy()
    other = LaneStatus("other", 5, None, 0.0, 0, 0)
    assert set(policy.lanes_to_wake([lane_status(1)], 0.0)) == {"email.normal"}
    assert set(policy.lanes_to_wake([lane_status(1), other], 1.0)) == {"other"}
