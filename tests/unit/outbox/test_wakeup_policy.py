from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.outbox.lane_trigger import LaneStatus, WakeupPolicy, backlog_count_limit, desired_dispatchers
from backline.settings import LaneSettings

LANE = LaneSettings(channel="email", max_dispatchers=3, backlog_per_dispatcher=100, max_age_seconds=60)


def lane_status(pending: int = 0, head: int | None = None, live: int = 0, handing_over: int = 0) -> LaneStatus:
    return LaneStatus("email.normal", pending, head, 0.0, live, handing_over)


def wakeup_policy(silence: float = 5.0) -> WakeupPolicy:
    return WakeupPolicy({"email.normal": LANE, "other": LANE}, silence)


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


def test_rings_for_the_first_message_and_then_is_silent() -> None:
    bell = wakeup_policy()
    assert bell.lanes_to_wake([lane_status(1)], 0.0) == {"email.normal": lane_status(1)}
    assert bell.lanes_to_wake([lane_status(2)], 0.25) == {}
    assert bell.lanes_to_wake([lane_status(2)], 4.9) == {}
    assert bell.lanes_to_wake([lane_status(2)], 5.0) == {"email.normal": lane_status(2)}


def test_a_lane_that_nobody_can_serve_is_rung_for_once_a_minute() -> None:
    bell = wakeup_policy()
    rung = [now for now in range(300) if bell.lanes_to_wake([lane_status(1)], float(now))]
    assert rung == [0, 5, 15, 35, 75, 135, 195, 255]


def test_who_appears_ends_the_long_silences() -> None:
    bell = wakeup_policy()
    for now in range(100):
        bell.lanes_to_wake([lane_status(1)], float(now))
    assert not bell.lanes_to_wake([lane_status(1, live=1)], 100.0)
    assert bell.lanes_to_wake([lane_status(1)], 101.0)
    assert bell.lanes_to_wake([lane_status(1)], 106.0)


def test_a_dispatcher_that_ends_unseen_is_replaced_after_the_short_silence() -> None:
    bell = wakeup_policy()
    for now in range(100):
        bell.lanes_to_wake([lane_status(300, live=1)], float(now))
    assert bell.lanes_to_wake([lane_status(300, live=0)], 100.0)
    assert not bell.lanes_to_wake([lane_status(300, live=0)], 104.0)
    assert bell.lanes_to_wake([lane_status(300, live=0)], 105.0)


def test_a_quiet_lane_does_not_ring() -> None:
    assert wakeup_policy().lanes_to_wake([lane_status(0)], 0.0) == {}


def test_a_lane_with_enough_dispatchers_does_not_ring() -> None:
    assert wakeup_policy().lanes_to_wake([lane_status(100, live=1)], 0.0) == {}


def test_rings_again_at_once_when_one_appeared_and_more_are_wanted() -> None:
    bell = wakeup_policy()
    assert bell.lanes_to_wake([lane_status(300)], 0.0)
    assert not bell.lanes_to_wake([lane_status(300)], 1.0)
    assert bell.lanes_to_wake([lane_status(300, live=1)], 1.5)
    assert not bell.lanes_to_wake([lane_status(300, live=1)], 2.0)
    assert bell.lanes_to_wake([lane_status(300, live=2)], 2.5)
    assert not bell.lanes_to_wake([lane_status(300, live=3)], 3.0)


def test_a_new_need_rings_at_once_after_the_last_was_met() -> None:
    bell = wakeup_policy()
    assert bell.lanes_to_wake([lane_status(1)], 0.0)
    assert not bell.lanes_to_wake([lane_status(0, live=1)], 0.5)
    assert bell.lanes_to_wake([lane_status(1, live=0)], 1.0)


def test_a_message_that_nobody_takes_rings_whatever_the_dispatchers_say_but_not_at_every_look() -> None:
    bell = wakeup_policy()
    assert not bell.lanes_to_wake([lane_status(1, head=7, live=3)], 0.0)
    assert not bell.lanes_to_wake([lane_status(1, head=7, live=3)], 60.0)
    assert bell.lanes_to_wake([lane_status(1, head=7, live=3)], 60.1)
    assert not bell.lanes_to_wake([lane_status(1, head=7, live=3)], 61.0)
    assert bell.lanes_to_wake([lane_status(1, head=7, live=3)], 66.0)


def test_a_backlog_that_moves_does_not_ring_for_its_age() -> None:
    bell = wakeup_policy()
    for second in range(200):
        assert not bell.lanes_to_wake([lane_status(50, head=second // 30, live=1)], float(second))


def test_an_empty_lane_is_never_stuck() -> None:
    bell = wakeup_policy()
    assert not bell.lanes_to_wake([lane_status(0, live=1)], 0.0)
    assert not bell.lanes_to_wake([lane_status(0, live=1)], 1000.0)
    assert not bell.lanes_to_wake([lane_status(1, head=7, live=1)], 1001.0)


def test_one_that_hands_over_gets_a_successor() -> None:
    bell = wakeup_policy()
    assert bell.lanes_to_wake([lane_status(0, live=0, handing_over=1)], 0.0)
    assert not bell.lanes_to_wake([lane_status(0, live=1, handing_over=1)], 0.5)


def test_lanes_ring_by_themselves() -> None:
    bell = wakeup_policy()
    other = LaneStatus("other", 5, None, 0.0, 0, 0)
    assert set(bell.lanes_to_wake([lane_status(1)], 0.0)) == {"email.normal"}
    assert set(bell.lanes_to_wake([lane_status(1), other], 1.0)) == {"other"}
