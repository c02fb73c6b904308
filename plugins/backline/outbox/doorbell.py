"""Which lanes need a dispatcher: a pure decision over what the outbox shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from backline.settings import LaneSettings


@dataclass(frozen=True, slots=True)
class LaneView:
    """One lane as `lane_status` shows it."""

    lane: str
    pending: int
    """What waits, or the number that it was counted up to."""
    head: int | None
    """The message that a dispatcher would take first."""
    head_seconds: float
    """How long ago that message came due."""
    live: int
    handing_over: int


def dispatchers_wanted(view: LaneView, lane: LaneSettings) -> int:
    """How many dispatchers the lane should have: by its backlog, and a successor for one that hands over."""
    wanted = math.ceil(view.pending / lane.backlog_per_dispatcher)
    if view.handing_over:
        wanted = max(wanted, 1)
    return min(wanted, lane.dispatchers)


def enough(lane: LaneSettings, live: int) -> int:
    """How many waiting messages have to be counted to know whether a lane with so many live dispatchers lacks one."""
    return live * lane.backlog_per_dispatcher + 1 if live < lane.dispatchers else 1


LONGEST_SILENCE_SECONDS = 60.0


class _Rung(NamedTuple):
    """The last ring for a lane."""

    at: float
    live: int
    silence: float


class Ringer:
    """Decides when to ring. After a ring a lane is left alone until a dispatcher appears or the silence is over.

    Each silence that nobody broke doubles the next one, to a minute at most: a lane that cannot be served would else be
    rung for in vain every few seconds, and each ring is a run of its DAG.
    """

    def __init__(self, lanes: Mapping[str, LaneSettings], silence_seconds: float) -> None:
        self._lanes = lanes
        self._silence = silence_seconds
        self._rung: dict[str, _Rung] = {}
        self._heads: dict[str, tuple[int | None, float]] = {}

    def due(self, views: Iterable[LaneView], now: float) -> dict[str, LaneView]:
        """The lanes to ring at `now` (seconds, monotonic)."""
        ringing = {}
        for view in views:
            lane = self._lanes[view.lane]
            short = view.live < dispatchers_wanted(view, lane)
            # Whatever its dispatchers say: nobody takes the message at its head.
            stuck = self._stands(view, now) > lane.oldest_limit_seconds
            if not short and not stuck:
                self._rung.pop(view.lane, None)
                continue
            if rung := self._again(self._rung.get(view.lane), view, now, short=short):
                self._rung[view.lane] = rung
                ringing[view.lane] = view
        return ringing

    def _again(self, last: _Rung | None, view: LaneView, now: float, *, short: bool) -> _Rung | None:
        """The ring at `now`, or None while the last one's silence holds."""
        if last is None or (short and view.live > last.live):
            return _Rung(now, view.live, self._silence)
        waited = now - last.at
        if view.live < last.live:
            return _Rung(now, view.live, self._silence) if waited >= self._silence else None
        longer = min(last.silence * 2, LONGEST_SILENCE_SECONDS)
        return _Rung(now, view.live, longer) if waited >= last.silence else None

    def _stands(self, view: LaneView, now: float) -> float:
        """Seconds that the same message has been at the lane's head."""
        head, since = self._heads.get(view.lane, (None, now))
        if head != view.head:
            since = now
        self._heads[view.lane] = (view.head, since)
        return now - since if view.head is not None else 0.0
