"""Decides which lanes need a dispatcher; pure: it sees lane statuses and a clock, and does no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from backline.settings import LaneSettings

MAX_COOLDOWN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One lane as the statement `lane_status` returns it."""

    lane: str
    pending: int
    """Pending messages, or the limit up to which they were counted."""
    head_message_id: int | None
    """The message that the next claim would take first."""
    head_age_seconds: float
    """How long ago that message came due."""
    live_dispatchers: int
    handing_over: int


def desired_dispatchers(status: LaneStatus, lane: LaneSettings) -> int:
    """How many dispatchers the lane should have: by its backlog, and a successor for one that hands over."""
    wanted = math.ceil(status.pending / lane.backlog_per_dispatcher)
    if status.handing_over:
        wanted = max(wanted, 1)
    return min(wanted, lane.max_dispatchers)


def backlog_count_limit(lane: LaneSettings, live: int) -> int:
    """How far to count pending messages to know whether a lane with that many live dispatchers needs one more."""
    return live * lane.backlog_per_dispatcher + 1 if live < lane.max_dispatchers else 1


class _Wakeup(NamedTuple):
    """The last wake-up of a lane."""

    at: float
    live_dispatchers: int
    cooldown: float


class WakeupPolicy:
    """Decides when to wake a lane: after a wake-up not again until a dispatcher appears or the cooldown ends.

    Each cooldown that passes without a dispatcher doubles the next one, up to a minute: each wake-up is a run of the
    lane's DAG, and a lane that cannot be served would otherwise start one every few seconds.
    """

    def __init__(self, lanes: Mapping[str, LaneSettings], cooldown_seconds: float) -> None:
        self._lanes = lanes
        self._cooldown_seconds = cooldown_seconds
        self._last_wakeups: dict[str, _Wakeup] = {}
        self._heads: dict[str, tuple[int | None, float]] = {}

    def lanes_to_wake(self, statuses: Iterable[LaneStatus], now: float) -> dict[str, LaneStatus]:
        """The lanes to wake at `now` (seconds, monotonic)."""
        to_wake = {}
        for status in statuses:
            lane = self._lanes[status.lane]
            short = status.live_dispatchers < desired_dispatchers(status, lane)
            # However many dispatchers are registered: none of them takes the message at the head.
            stuck = self._seconds_at_head(status, now) > lane.max_age_seconds
            if not short and not stuck:
                self._last_wakeups.pop(status.lane, None)
                continue
            if wakeup := self._next_wakeup(self._last_wakeups.get(status.lane), status, now, short=short):
                self._last_wakeups[status.lane] = wakeup
                to_wake[status.lane] = status
        return to_wake

    def _next_wakeup(self, last: _Wakeup | None, status: LaneStatus, now: float, *, short: bool) -> _Wakeup | None:
        """The wake-up at `now`, or None during the cooldown of the last one."""
        live, cooldown = status.live_dispatchers, self._cooldown_seconds
        if last is None or (short and live > last.live_dispatchers):
            return _Wakeup(now, live, cooldown)
        if live < last.live_dispatchers:  # one has ended since
            return _Wakeup(now, live, cooldown) if now - last.at >= cooldown else None
        longer = min(last.cooldown * 2, MAX_COOLDOWN_SECONDS)
        return _Wakeup(now, live, longer) if now - last.at >= last.cooldown else None

    def _seconds_at_head(self, status: LaneStatus, now: float) -> float:
        """Seconds that the same message has been at the lane's head."""
        head, since = self._heads.get(status.lane, (None, now))
        if head != status.head_message_id:
            since = now
        self._heads[status.lane] = (status.head_message_id, since)
        return now - since if status.head_message_id is not None else 0.0
