"""The dispatcher: claims a lane's messages in batches, sends them over a few sessions, and hands over to a successor.

Four kinds of tasks run in one event loop: the feeder claims, workers send (each over one session), the committer stores the
outcomes of attempts, and the heartbeat renews leases and learns of cancellations and stop requests. A message is in `_in_hand`
from its claim until its outcome is committed; at most `max_unconfirmed` messages are sent and not yet committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Generic

from backline.channels.base import Channel, P, Session, SessionBusy
from backline.db.connect import Database
from backline.outbox.delivery import Delivery
from backline.outbox.recipient_policy import (
    WEBHOOK_CHANNEL,
    PreferenceFilter,
    defer_over_domain_rate,
    each_alone,
    hold_back_failing_endpoints,
    upgrade_payloads,
)
from backline.outbox.store import RESCAN_INTERVAL_SECONDS, LeasedMessage, Outcome, Store
from backline.settings import LaneSettings, OutboxSettings

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_SECONDS = 1.0
RESCUE_INTERVAL_SECONDS = 5.0
MIN_ALONE_SECONDS, MAX_ALONE_SECONDS = 1.0, 128.0
"""How long others wait for a message that takes long, so that rescued ones are sent alone; doubled until it is enough."""
MIN_POLL_INTERVAL_SECONDS = 0.002
MAX_POLL_INTERVAL_SECONDS = 0.25
RECENT_WORK_SECONDS = 60.0
"""At the end of its lifetime a dispatcher with work this recent hands over; one without just ends."""
HANDOVER_TIMEOUT_SECONDS = 30.0
"""How long it waits for its successor when it hands over."""
COMMIT_GATHER_SECONDS = 0.005
"""How long outcomes wait for others, to be committed together, while more messages are queued."""
FEEDER_TIMEOUT_SECONDS = 60.0
"""A feeder that has not claimed for so long is stuck: the dispatcher ends, so that another one serves the lane."""
STOP_POLL_INTERVAL_SECONDS = 0.05
STOP_GRACE_SECONDS = 2.0
"""How long sends in flight may take to finish once it must stop; Airflow kills after 5."""


def poll_interval(quiet_seconds: float) -> float:
    """Seconds between two claims in a lane that has been quiet for so long: short at first, then longer."""
    return min(max(MIN_POLL_INTERVAL_SECONDS, (quiet_seconds - 2.0) * 0.0025), MAX_POLL_INTERVAL_SECONDS)


@dataclass(slots=True)
class DispatchReport:
    """What a dispatcher did: the number of attempts by outcome, and why the dispatcher ended."""

    lane: str
    end_reason: str = "drained"
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """For XCom and logs."""
        return {"lane": self.lane, "ended": self.end_reason, "seconds": round(self.seconds, 3), **self.outcomes}


@dataclass(eq=False, repr=False)  # a text of it would contain the database's password
class Dispatcher(Generic[P]):
    """Serves one lane until it is quiet, its lifetime is over, or it is stopped."""

    lane_name: str
    lane: LaneSettings
    outbox: OutboxSettings
    dsn: str
    channel: Channel[P]
    delivery: Delivery[P]
    once: bool = field(default=False, kw_only=True)
    """End as soon as the lane is drained, without waiting for more."""
    dag_run: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        # Only if it does not end at the first empty claim, which then would have to mean an empty lane.
        resume_scans = not self.once and self.lane.idle_timeout_seconds > RESCAN_INTERVAL_SECONDS
        claims = Database(self.dsn, name=f"{self.lane_name} claim")
        self._claim_store = Store(claims, resume_scans=resume_scans)
        self._preference_filter = PreferenceFilter(claims, self.lane)
        self._commit_store = Store(Database(self.dsn, name=f"{self.lane_name} commit"))
        self._heartbeat_store = Store(
            Database(
                self.dsn, name=f"{self.lane_name} heartbeat", retry_timeout=self.outbox.heartbeat_timeout_seconds / 2
            )
        )
        self._dispatcher_id = 0
        self._queue: asyncio.Queue[LeasedMessage] = asyncio.Queue()
        self._in_hand: dict[int, LeasedMessage] = {}
        self._cancelled: set[int] = set()
        self._in_flight = 0
        self._last_fed_at = 0.0
        self._finished: list[Outcome] = []
        self._unconfirmed = 0
        self._outcome_ready = asyncio.Event()
        self._batch_ready = asyncio.Event()
        self._committed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._handing_over = False
        self._has_successor = False
        self._check_rescued = True
        self._alone_seconds = MIN_ALONE_SECONDS
        self._report = DispatchReport(self.lane_name)

    def stop(self, why: str = "stopped") -> None:
        """Stop claiming, return what is not in flight, and end. Safe to call from a signal handler or thread."""
        self._report.end_reason = why
        if self._loop is None:
            self._stopping.set()
        else:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def run(self) -> DispatchReport:
        """Serve the lane; returns what was done. DatabaseFailure if the database stays unavailable."""
        self._loop = asyncio.get_running_loop()
        self._last_fed_at = started = time.monotonic()
        try:
            if self._stopping.is_set():
                return self._report
            await self._claim_store.rescue(self.outbox.max_rescues, self.outbox.heartbeat_timeout_seconds)
            await self._claim_store.promote()
            registered = await self._claim_store.register(self.lane_name, self.lane.max_dispatchers, self.dag_run)
            if registered is None:
                self._report.end_reason = "the lane has all its dispatchers"
            else:
                self._dispatcher_id, is_successor = registered
                await self._serve(started, is_successor=is_successor)
        finally:
            for store in (self._claim_store, self._commit_store, self._heartbeat_store):
                await store.close()
            self._loop = None
        self._report.seconds = time.monotonic() - started
        return self._report

    async def _serve(self, started: float, *, is_successor: bool) -> None:
        loops = [asyncio.create_task(self._heartbeat_loop()), asyncio.create_task(self._committer_loop())]
        sessions = [self.channel.session() for _ in range(self.channel.connections)]
        workers = [
            asyncio.create_task(self._worker_loop(session))
            for _ in range(self.channel.messages_per_session)
            for session in sessions
        ]
        feeder = asyncio.create_task(self._feeder_loop(started, is_successor=is_successor))
        stopped = asyncio.create_task(self._stopping.wait())
        tasks = [feeder, stopped, *loops, *workers]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
            # Not cancelled at once: a feeder cancelled during a claim would leave messages leased that no task knows of.
            deadline = time.monotonic() + STOP_GRACE_SECONDS
            self._committed.set()
            while (self._in_flight or self._finished or not feeder.done()) and time.monotonic() < deadline:
                await self._wait_for_commit(STOP_POLL_INTERVAL_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*[session.close() for session in sessions])
            await self._commit_outcomes()
            if self._in_hand:
                await self._claim_store.return_unsent(list(self._in_hand.values()))
            await self._claim_store.unregister(self._dispatcher_id)

    # --- the feeder ---------------------------------------------------------------------------------

    async def _feeder_loop(self, started: float, *, is_successor: bool) -> None:
        last_work = started if is_successor else float("-inf")
        while not self._stopping.is_set():
            self._last_fed_at = now = time.monotonic()
            if self._should_hand_over(now - started, now - last_work):
                if not self._in_hand:
                    self._report.end_reason = "handed over"
                    return
                await self._wait_for_commit(MAX_POLL_INTERVAL_SECONDS)
                continue
            if self._check_rescued and await self._send_rescued_singly():
                last_work = time.monotonic()
            wait = 0.0
            if self._queue.qsize() <= self.lane.batch_size // 2:
                claimed, wait = await self._claim_batch()
                now = time.monotonic()
                if claimed or wait:  # with `wait`, messages wait for the lane's rate
                    last_work = now
                if claimed:
                    continue
            quiet = now - last_work
            if not self._in_hand and not wait and (self.once or quiet > self.lane.idle_timeout_seconds):
                return
            await self._wait_for_commit(min(wait or poll_interval(quiet), MAX_POLL_INTERVAL_SECONDS))

    def _should_hand_over(self, age: float, quiet: float) -> bool:
        lifetime = self.outbox.dispatcher_lifetime_seconds
        if age < lifetime:
            return False
        if quiet > RECENT_WORK_SECONDS:
            return True  # it ends without a successor
        self._handing_over = True
        return self._has_successor or age > lifetime + HANDOVER_TIMEOUT_SECONDS

    async def _claim_batch(self) -> tuple[bool, float]:
        """Whether any message was due, even if all were deferred; and the seconds until the lane's rate allows more."""
        wait = 0.0
        if self.lane.rate_per_minute:
            messages, wait = await self._claim_store.claim_within_rate(
                self.lane_name, self.lane, self.lane.batch_size, self._dispatcher_id
            )
        else:
            messages = await self._claim_store.claim(
                self.lane_name, self.lane.batch_size, self._dispatcher_id, self.lane.lease_seconds
            )
        self._queue_messages(await each_alone(self._admit_batch, messages) if messages else [])
        return bool(messages), wait

    async def _admit_batch(self, messages: list[LeasedMessage]) -> list[LeasedMessage]:
        """As `_admit`, and within the rates of domains and endpoints."""
        admitted = await self._admit(messages)
        if admitted and self.lane.domain_rates_per_minute:
            admitted = await defer_over_domain_rate(self._claim_store, self.lane_name, self.lane, admitted)
        if self.lane.channel == WEBHOOK_CHANNEL:
            admitted = await hold_back_failing_endpoints(self._claim_store, admitted, self._in_hand.values())
        return admitted

    async def _admit(self, messages: list[LeasedMessage]) -> list[LeasedMessage]:
        """The messages that payload version and preferences allow to be sent now."""
        upgraded = await upgrade_payloads(self._claim_store, messages)
        result = await self._preference_filter.apply(upgraded)
        deferred = len(messages) - len(upgraded) + result.deferred
        if result.suppressed:
            self._report.outcomes["suppressed"] += result.suppressed
        if deferred:
            self._report.outcomes["deferred"] += deferred
        return result.admitted

    async def _send_rescued_singly(self) -> bool:
        """Send rescued messages one by one, with nothing else in hand: one that kills the process harms no other message."""
        self._check_rescued = False
        if not await self._claim_store.has_rescued(self.lane_name):
            return False
        found = False
        while not self._stopping.is_set():
            if not await self._has_nothing_in_hand(self._alone_seconds):
                self._alone_seconds = min(2 * self._alone_seconds, MAX_ALONE_SECONDS)
                return found
            lease = self.lane.lease_seconds
            messages = await self._claim_store.claim_rescued(self.lane_name, self._dispatcher_id, lease)
            if not messages:
                self._alone_seconds = MIN_ALONE_SECONDS
                return found
            found = True
            self._queue_messages(await each_alone(self._admit, messages))
        return found

    async def _has_nothing_in_hand(self, seconds: float) -> bool:
        """Wait at most so long until all messages in hand have ended; whether they have."""
        until = time.monotonic() + seconds
        while self._in_hand and not self._stopping.is_set():
            self._last_fed_at = now = time.monotonic()
            if now >= until:
                return False
            await self._wait_for_commit(min(until - now, MAX_POLL_INTERVAL_SECONDS))
        return True

    def _queue_messages(self, messages: list[LeasedMessage]) -> None:
        for message in messages:
            self._in_hand[message.id] = message
            self._queue.put_nowait(message)

    # --- the workers --------------------------------------------------------------------------------

    async def _worker_loop(self, session: Session[P]) -> None:
        margin = min(self.lane.lease_seconds / 6, 5.0)
        while True:
            message = await self._queue.get()
            while self._unconfirmed >= self.outbox.max_unconfirmed:
                self._committed.clear()
                await self._committed.wait()
            if self._stopping.is_set():
                return
            if message.lease_deadline - time.monotonic() < margin:  # its lease would end during the send
                del self._in_hand[message.id]
                await self._claim_store.return_unsent([message])
                continue
            self._unconfirmed += 1
            self._in_flight += 1
            try:
                outcome = await self.delivery.attempt(message, session, cancelled=message.id in self._cancelled)
            except SessionBusy as exc:  # another session may take it at once
                self._unconfirmed -= 1
                self._in_flight -= 1
                self._queue.put_nowait(message)
                await exc.wait()
                continue
            self._in_flight -= 1
            self._finished.append(outcome)
            self._outcome_ready.set()
            if len(self._finished) >= self.outbox.max_unconfirmed // 2:
                self._batch_ready.set()

    # --- the committer ------------------------------------------------------------------------------

    async def _committer_loop(self) -> None:
        while True:
            await self._outcome_ready.wait()
            if not self._queue.empty():
                # More outcomes will follow: a few large commits cost less than many small ones.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._batch_ready.wait(), COMMIT_GATHER_SECONDS)
            self._outcome_ready.clear()
            self._batch_ready.clear()
            await self._commit_outcomes()

    async def _commit_outcomes(self) -> None:
        batch = self._finished[:]  # never more than may be unconfirmed
        if not batch:
            return
        states = await self._commit_store.complete(batch, self._dispatcher_id, self.dag_run)
        del self._finished[: len(batch)]
        if len(states) < len(batch):
            # Another dispatcher took them over, or a server crash undid the claim: the other leases are in doubt too.
            for message in self._in_hand.values():
                message.lease_deadline = 0.0
        for outcome in batch:
            self._in_hand.pop(outcome.message_id, None)
            self._cancelled.discard(outcome.message_id)
            self._unconfirmed -= 1
            state = states.get(outcome.message_id, "taken over")
            self._report.outcomes[state] += 1
            if state != "sent":
                log.info("message %d is %s: %s: %s", outcome.message_id, state, outcome.error_class, outcome.error)
        self._committed.set()

    async def _wait_for_commit(self, seconds: float) -> None:
        """Wait until outcomes were committed, at most so many seconds."""
        self._committed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._committed.wait(), seconds)

    # --- the heartbeat ------------------------------------------------------------------------------

    async def _heartbeat_loop(self) -> None:
        next_rescue = 0.0
        while True:
            status = await self._heartbeat_store.heartbeat(self._dispatcher_id, handing_over=self._handing_over)
            if status is None:
                # Others may have our messages already: end. Their new lease tokens refuse what we still commit.
                self.stop("declared dead: its heartbeat came too late")
                return
            stop_requested, self._has_successor = status
            if stop_requested and not self._stopping.is_set():
                self.stop()
            now = time.monotonic()
            if now - self._last_fed_at > FEEDER_TIMEOUT_SECONDS:
                self.stop(f"stuck: no claim for {FEEDER_TIMEOUT_SECONDS:.0f} seconds")
                return
            await self._renew_leases(now)
            if self.lane.channel == WEBHOOK_CHANNEL and not self._queue.empty():
                await self._hold_back_failing_endpoints()
            await self._heartbeat_store.promote()
            await self._heartbeat_store.expire()
            if now >= next_rescue:
                next_rescue = now + RESCUE_INTERVAL_SECONDS
                await self._heartbeat_store.rescue(self.outbox.max_rescues, self.outbox.heartbeat_timeout_seconds)
                self._check_rescued = True
            await asyncio.sleep(HEARTBEAT_INTERVAL_SECONDS)

    async def _hold_back_failing_endpoints(self) -> None:
        """Check the queued messages again: an endpoint may have begun to fail since they were claimed."""
        waiting = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        ids = {message.id for message in waiting}
        in_flight = [message for message in self._in_hand.values() if message.id not in ids]
        admitted = await hold_back_failing_endpoints(self._heartbeat_store, waiting, in_flight)
        for message in waiting:
            del self._in_hand[message.id]
        self._queue_messages(admitted)

    async def _renew_leases(self, now: float) -> None:
        if not self._in_hand:
            return
        self._cancelled |= await self._heartbeat_store.cancel_requests(self._dispatcher_id)
        lease = self.lane.lease_seconds
        aging = [message for message in self._in_hand.values() if message.lease_deadline - now < lease * 2 / 3]
        if aging and (lost := len(aging) - await self._heartbeat_store.renew(aging, lease)):
            log.warning("%s: the leases of %d messages were taken over or have ended", self.lane_name, lost)
