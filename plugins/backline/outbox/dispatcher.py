"""The dispatcher: claims a lane's messages in batches, keeps a few connections busy, stays warm, hands over.

Four kinds of work run side by side in one event loop: the feeder claims, workers send (one session each), the
committer writes down how tries ended, and the heart says that we live and hears what changed. A message in hand
stands in `_held` from its claim until its end is committed; at most `max_unconfirmed` are between the provider's
hands and the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Generic

from backline.channels.base import Channel, P, Session
from backline.db.connect import Database
from backline.outbox import isolation
from backline.outbox.delivery import Delivery
from backline.outbox.rates import put_off
from backline.outbox.screening import Screen
from backline.outbox.store import LOOK_BACK_SECONDS, Leased, Outcome, Store
from backline.settings import LaneSettings, OutboxSettings

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
RESCUE_SECONDS = 5.0
FASTEST_POLL_SECONDS = 0.002
SLOWEST_POLL_SECONDS = 0.25
RECENT_SECONDS = 60.0
"""A dispatcher with work this recent is handed over; an older one just ends."""
SUCCESSION_SECONDS = 30.0
"""How long one that hands over waits for its successor."""
GATHER_SECONDS = 0.005
"""How long finished tries wait for others to be committed with, while more messages are in hand."""
STUCK_SECONDS = 60.0
"""A feeder that has not looked for so long is stuck: better that another dispatcher serves the lane."""
LOOK_SECONDS = 0.05
STOP_SECONDS = 2.0
"""What sends in flight get to finish once it must stop; Airflow kills after 5."""


def poll_interval(quiet_seconds: float) -> float:
    """Seconds between two looks at a lane that has been quiet for so long: quick at first, slower as it ages."""
    return min(max(FASTEST_POLL_SECONDS, (quiet_seconds - 2.0) * 0.0025), SLOWEST_POLL_SECONDS)


@dataclass(slots=True)
class Report:
    """What a dispatcher did: tries by how they ended, and why the dispatcher ended."""

    lane: str
    ended: str = "drained"
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """For XCom and logs."""
        return {"lane": self.lane, "ended": self.ended, "seconds": round(self.seconds, 3), **self.outcomes}


class Dispatcher(Generic[P]):
    """Serves one lane until it is quiet, its lifetime is over, or somebody stops it."""

    def __init__(
        self,
        lane_name: str,
        lane: LaneSettings,
        outbox: OutboxSettings,
        dsn: str,
        channel: Channel[P],
        delivery: Delivery[P],
        *,
        once: bool = False,
        dag_run: str | None = None,
    ) -> None:
        """`once`: end as soon as the lane is drained, without staying warm."""
        self._name = lane_name
        self._lane = lane
        self._outbox = outbox
        self._channel = channel
        self._delivery = delivery
        self._once = once
        self._dag_run = dag_run
        lasting = not once and lane.idle_seconds > LOOK_BACK_SECONDS  # else an empty claim must mean an empty lane
        claims = Database(dsn, name=f"{lane_name} claim")
        self._claims = Store(claims, marking=lasting)
        self._screen = Screen(claims, lane)
        self._commits = Store(Database(dsn, name=f"{lane_name} commit"))
        self._heart = Store(Database(dsn, name=f"{lane_name} heart", patience=outbox.heartbeat_timeout_seconds / 2))
        self._id = 0
        self._queue: asyncio.Queue[Leased] = asyncio.Queue()
        self._held: dict[int, Leased] = {}
        self._cancelled: set[int] = set()
        self._sending = 0
        self._fed_at = 0.0
        self._finished: list[Outcome] = []
        self._unconfirmed = 0
        self._something_finished = asyncio.Event()
        self._much_finished = asyncio.Event()
        self._progress = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._handing_over = False
        self._succeeded = False
        self._look_for_rescued = True
        self._report = Report(lane_name)

    def stop(self, why: str = "stopped") -> None:
        """Stop claiming, return what is not in flight, and end. Safe to call from a signal handler or thread."""
        self._report.ended = why
        if self._loop is None:
            self._stopping.set()
        else:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def run(self) -> Report:
        """Serve the lane; returns what was done. DatabaseFailure if the database stays away."""
        self._loop = asyncio.get_running_loop()
        self._fed_at = started = time.monotonic()
        try:
            if self._stopping.is_set():
                return self._report
            await self._claims.rescue(self._outbox.max_rescues, self._outbox.heartbeat_timeout_seconds)
            await self._claims.promote()
            registered = await self._claims.register(self._name, self._lane.dispatchers, self._dag_run)
            if registered is None:
                self._report.ended = "the lane has all its dispatchers"
            else:
                self._id, succeeds = registered
                await self._serve(started, warm=succeeds)
        finally:
            for store in (self._claims, self._commits, self._heart):
                await store.close()
            self._loop = None
        self._report.seconds = time.monotonic() - started
        return self._report

    async def _serve(self, started: float, *, warm: bool) -> None:
        sides = [asyncio.create_task(self._beat()), asyncio.create_task(self._commit())]
        sessions = [self._channel.session() for _ in range(self._channel.connections)]
        workers = [asyncio.create_task(self._work(session)) for _ in range(self._channel.depth) for session in sessions]
        feeder = asyncio.create_task(self._feed(started, warm=warm))
        stopped = asyncio.create_task(self._stopping.wait())
        tasks = [feeder, stopped, *sides, *workers]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
            # The feeder ends by itself: cancelled in mid-claim it would leave rows leased that nobody knows of.
            deadline = time.monotonic() + STOP_SECONDS
            self._progress.set()
            while (self._sending or self._finished or not feeder.done()) and time.monotonic() < deadline:
                await self._progress_or(LOOK_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*[session.close() for session in sessions])
            await self._wind_up()

    async def _wind_up(self) -> None:
        """Write down what has ended, give back what has not, and sign off."""
        await self._write_down()
        if self._held:
            await self._claims.give_back(list(self._held.values()))
        await self._claims.end(self._id)

    # --- the feeder ---------------------------------------------------------------------------------

    async def _feed(self, started: float, *, warm: bool) -> None:
        last_work = started if warm else float("-inf")
        while not self._stopping.is_set():
            self._fed_at = now = time.monotonic()
            if self._is_handed_over(now - started, now - last_work):
                if not self._held:
                    self._report.ended = "handed over"
                    return
                await self._progress_or(SLOWEST_POLL_SECONDS)
                continue
            if self._look_for_rescued and await self._serve_rescued():
                last_work = time.monotonic()
            wait = 0.0
            if self._queue.qsize() <= self._lane.batch // 2:
                claimed, wait = await self._claim()
                now = time.monotonic()
                if claimed or wait:  # or messages wait for the lane's rate
                    last_work = now
                if claimed:
                    continue
            quiet = now - last_work
            if not self._held and not wait and (self._once or quiet > self._lane.idle_seconds):
                return
            await self._progress_or(min(wait or poll_interval(quiet), SLOWEST_POLL_SECONDS))

    def _is_handed_over(self, age: float, quiet: float) -> bool:
        lifetime = self._outbox.dispatcher_lifetime_seconds
        if age < lifetime:
            return False
        if quiet > RECENT_SECONDS:
            return True  # nothing to hand over: it just ends
        self._handing_over = True
        return self._succeeded or age > lifetime + SUCCESSION_SECONDS

    async def _claim(self) -> tuple[bool, float]:
        """Whether anything was due, if only to be put off; else the seconds until the lane's rate allows more."""
        wait = 0.0
        if self._lane.rate_per_minute:
            messages, wait = await self._claims.claim_within_rate(self._name, self._lane, self._lane.batch, self._id)
        else:
            messages = await self._claims.claim(self._name, self._lane.batch, self._id, self._lane.lease_seconds)
        admitted = await self._screened(messages)
        if admitted and self._lane.domain_rates_per_minute:
            admitted = await put_off(self._claims, self._name, self._lane, admitted)
        if self._lane.channel == isolation.CHANNEL:
            admitted = await isolation.spare_the_others(self._claims, admitted, self._held.values())
        self._take(admitted)
        return bool(messages), wait

    async def _screened(self, messages: list[Leased]) -> list[Leased]:
        screened = await self._screen.screen(messages)
        if screened.suppressed:
            self._report.outcomes["suppressed"] += screened.suppressed
        if screened.put_off:
            self._report.outcomes["put off"] += screened.put_off
        return screened.admitted

    async def _serve_rescued(self) -> bool:
        """One by one, nothing else in hand: if it kills us, it kills nobody else."""
        self._look_for_rescued = False
        found = False
        while not self._stopping.is_set():
            self._fed_at = time.monotonic()
            if self._held:
                await self._progress_or(SLOWEST_POLL_SECONDS)
                continue
            messages = await self._claims.claim_rescued(self._name, self._id, self._lane.lease_seconds)
            if not messages:
                return found
            found = True
            self._take(await self._screened(messages))
        return found

    def _take(self, messages: list[Leased]) -> None:
        for message in messages:
            self._held[message.id] = message
            self._queue.put_nowait(message)

    # --- the workers --------------------------------------------------------------------------------

    async def _work(self, session: Session[P]) -> None:
        margin = min(self._lane.lease_seconds / 6, 5.0)
        while True:
            message = await self._queue.get()
            while self._unconfirmed >= self._outbox.max_unconfirmed:
                self._progress.clear()
                await self._progress.wait()
            if self._stopping.is_set():
                return
            if message.until - time.monotonic() < margin:  # its lease is as good as lost: somebody else's turn
                del self._held[message.id]
                await self._claims.give_back([message])
                continue
            self._unconfirmed += 1
            self._sending += 1
            outcome = await self._delivery.attempt(message, session, cancelled=message.id in self._cancelled)
            self._sending -= 1
            self._finished.append(outcome)
            self._something_finished.set()
            if len(self._finished) >= self._outbox.max_unconfirmed // 2:
                self._much_finished.set()

    # --- the committer ------------------------------------------------------------------------------

    async def _commit(self) -> None:
        while True:
            await self._something_finished.wait()
            if not self._queue.empty():
                # More is on its way: a few large commits cost less than many small ones.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._much_finished.wait(), GATHER_SECONDS)
            self._something_finished.clear()
            self._much_finished.clear()
            await self._write_down()

    async def _write_down(self) -> None:
        batch = self._finished[:]  # never more than may be unconfirmed
        if not batch:
            return
        states = await self._commits.complete(batch, self._id, self._dag_run)
        del self._finished[: len(batch)]
        if len(states) < len(batch):
            # Somebody took them over, or the claim was lost in a crash of the server: what else is in hand is in doubt.
            for message in self._held.values():
                message.until = 0.0
        for outcome in batch:
            self._held.pop(outcome.message_id, None)
            self._cancelled.discard(outcome.message_id)
            self._unconfirmed -= 1
            state = states.get(outcome.message_id, "taken over")
            self._report.outcomes[state] += 1
            if state != "sent":
                log.info("message %d is %s: %s: %s", outcome.message_id, state, outcome.error_class, outcome.error)
        self._progress.set()

    async def _progress_or(self, seconds: float) -> None:
        """Wait until something was written down, so many seconds at most."""
        self._progress.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._progress.wait(), seconds)

    # --- the heart ----------------------------------------------------------------------------------

    async def _beat(self) -> None:
        next_rescue = 0.0
        while True:
            told = await self._heart.heartbeat(self._id, handing_over=self._handing_over)
            if told is None:
                # Others may hold our messages already: end, and let the fence refuse what we still write.
                self.stop("taken for dead: its heartbeat came too late")
                return
            stop_requested, self._succeeded = told
            if stop_requested and not self._stopping.is_set():
                self.stop()
            now = time.monotonic()
            if now - self._fed_at > STUCK_SECONDS:
                self.stop("stuck: nothing claimed or looked for in too long")
                return
            await self._keep_leases(now)
            if self._lane.channel == isolation.CHANNEL and not self._queue.empty():
                await self._spare_the_others()
            await self._heart.promote()
            await self._heart.expire()
            if now >= next_rescue:
                next_rescue = now + RESCUE_SECONDS
                await self._heart.rescue(self._outbox.max_rescues, self._outbox.heartbeat_timeout_seconds)
                self._look_for_rescued = True
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _spare_the_others(self) -> None:
        """Look again at what is in hand and not yet under way: an endpoint may have begun to fail since it was claimed."""
        waiting = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        ids = {message.id for message in waiting}
        under_way = [message for message in self._held.values() if message.id not in ids]
        admitted = await isolation.spare_the_others(self._heart, waiting, under_way)
        for message in waiting:
            del self._held[message.id]
        self._take(admitted)

    async def _keep_leases(self, now: float) -> None:
        if not self._held:
            return
        self._cancelled |= await self._heart.cancel_requests(self._id)
        lease = self._lane.lease_seconds
        aging = [message for message in self._held.values() if message.until - now < lease * 2 / 3]
        if aging and (lost := len(aging) - await self._heart.renew(aging, lease)):
            log.warning("%s: the leases of %d messages were taken over or have ended", self._name, lost)
