"""Which lanes need a dispatcher: a pure decision over what the outbox shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from backline.settings import LaneSettings


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One lane as `lane_status` shows it."""

    lane: str
    pending: int
    """What waits, or the number that it was counted up to."""
    head_message_id: int | None
    """The message that a dispatcher would take first."""
    head_age_seconds: float
    """How long ago that message came due."""
    live_dispatchers: int
    handing_over: int


def desired_dispatchers(view: LaneStatus, lane: LaneSettings) -> int:
    """How many dispatchers the lane should have: by its backlog, and a successor for one that hands over."""
    wanted = math.ceil(view.pending / lane.backlog_per_dispatcher)
    if view.handing_over:
        wanted = max(wanted, 1)
    return min(wanted, lane.max_dispatchers)


def backlog_count_limit(lane: LaneSettings, live: int) -> int:
    """How many waiting messages have to be counted to know whether a lane with so many live dispatchers lacks one."""
    return live * lane.backlog_per_dispatcher + 1 if live < lane.max_dispatchers else 1


MAX_COOLDOWN_SECONDS = 60.0


class _Wakeup(NamedTuple):
    """The last ring for a lane."""

    at: float
    live_dispatchers: int
    cooldown: float


class WakeupPolicy:
    """Decides when to ring. After a ring a lane is left alone until a dispatcher appears or the silence is over.

    Each silence that nobody broke doubles the next one, to a minute at most: a lane that cannot be served would else be
    rung for in vain every few seconds, and each ring is a run of its DAG.
    """

    def __init__(self, lanes: Mapping[str, LaneSettings], cooldown_seconds: float) -> None:
        self._lanes = lanes
        self._cooldown_seconds = cooldown_seconds
        self._last_wakeups: dict[str, _Wakeup] = {}
        self._heads: dict[str, tuple[int | None, float]] = {}

    def lanes_to_wake(self, views: Iterable[LaneStatus], now: float) -> dict[str, LaneStatus]:
        """The lanes to ring at `now` (seconds, monotonic)."""
        ringing = {}
        for view in views:
            lane = self._lanes[view.lane]
            short = view.live_dispatchers < desired_dispatchers(view, lane)
            # Whatever its dispatchers say: nobody takes the message at its head.
            stuck = self._seconds_at_head(view, now) > lane.max_age_seconds
            if not short and not stuck:
                self._last_wakeups.pop(view.lane, None)
                continue
            if rung := self._next_wakeup(self._last_wakeups.get(view.lane), view, now, short=short):
                self._last_wakeups[view.lane] = rung
                ringing[view.lane] = view
        return ringing

    def _next_wakeup(self, last: _Wakeup | None, view: LaneStatus, now: float, *, short: bool) -> _Wakeup | None:
        """The ring at `now`, or None while the last one's silence holds."""
        if last is None or (short and view.live_dispatchers > last.live_dispatchers):
            return _Wakeup(now, view.live_dispatchers, self._cooldown_seconds)
        waited = now - last.at
        if view.live_dispatchers < last.live_dispatchers:
            return (
                _Wakeup(now, view.live_dispatchers, self._cooldown_seconds)
                if waited >= self._cooldown_seconds
                else None
            )
        longer = min(last.cooldown * 2, MAX_COOLDOWN_SECONDS)
        return _Wakeup(now, view.live_dispatchers, longer) if waited >= last.cooldown else None

    def _seconds_at_head(self, view: LaneStatus, now: float) -> float:
        """Seconds that the same message has been at the lane's head."""
        head, since = self._heads.get(view.lane, (None, now))
        if head != view.head_message_id:
            since = now
        self._heads[view.lane] = (view.head_message_id, since)
        return now - since if view.head_message_id is not None else 0.0
