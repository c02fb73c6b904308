"""The engine's access to the outbox: one method for each statement of `include/sql/outbox.sql` that it runs."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, LiteralString, NamedTuple

from pydantic_core import from_json, to_json

from backline.db.connect import Database, Execute, is_about_a_row
from backline.db.statements import statement
from backline.errors import InvalidInput, Misconfigured
from backline.outbox.wakeup_policy import LaneStatus
from backline.settings import LaneSettings

log = logging.getLogger(__name__)

RESCAN_INTERVAL_SECONDS = 1.0
"""Claims that resume at the last position start at the lane's head again after this time."""
LARGE_PAYLOAD_LENGTH = 100_000
RESCAN_TIME_SHARE = 0.1
"""While claims from the last position find less than they ask for, scans from the head take at most this share of the time."""


@dataclass(slots=True)
class LeasedMessage:
    """A message that this process holds until `lease_deadline` (on its monotonic clock)."""

    id: int
    type: str
    recipient: str
    payload_json: str
    """As it is stored; parsed message by message, because PostgreSQL's JSON may be deeper or larger than Python's."""
    type_version: int
    """The type's version that the payload is of."""
    created_at: datetime
    attempt: int
    """Attempts that ended before this one."""
    max_attempts: int
    rate_token_reserved: bool
    token: uuid.UUID
    priority: int
    due_at: datetime
    has_preferences: bool
    """Whether any recipient has preferences that must be looked up before it is sent."""
    seconds_to_live: float | None
    """From the claim until the message expires, or None."""
    payload: Mapping[str, Any] = field(default_factory=dict)
    """Empty if it cannot be read."""
    problem: InvalidInput | None = None
    """Why it cannot be sent, found before the attempt: its payload cannot be read, or not compared with preferences."""
    lease_deadline: float = 0.0
    send_deadline: float | None = None
    """When the message expires (monotonic), or None."""


@dataclass(frozen=True, slots=True)
class MessageStatus:
    """The present state of one message."""

    id: int
    type: str
    channel: str
    lane: str
    priority: int
    state: str
    recipient: str
    due_at: datetime
    expires_at: datetime | None
    attempt: int
    max_attempts: int
    rescues: int
    request_id: str | None
    group_id: int | None
    replay_of: int | None
    created_at: datetime
    finalized_at: datetime | None
    error_class: str | None
    error: str | None
    provider_id: str | None
    seconds_to_due: float
    """Until it is due and not leased; less than 0 if it is."""


@dataclass(frozen=True, slots=True)
class CompletedMessage:
    """A message whose attempt has been stored."""

    id: int
    state: str


@dataclass(frozen=True, slots=True)
class LaneTokens:
    """The rate tokens of a lane."""

    tokens: int
    wait_seconds: float
    """Until the next one."""


@dataclass(frozen=True, slots=True)
class ReservedTokens:
    """Tokens reserved in one bucket."""

    key: str
    seconds_to_first_token: float


@dataclass(frozen=True, slots=True)
class Registration:
    """A dispatcher's slot."""

    id: int
    is_successor: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a dispatcher learns from its heartbeat."""

    stop_requested: bool
    has_successor: bool


class Outcome(NamedTuple):
    """How one attempt ended. `state` is final, or `scheduled` for a retry after `delay` seconds."""

    message_id: int
    token: uuid.UUID
    state: str
    started: float
    """Monotonic."""
    ended: float
    delay: float = 0.0
    error_class: str | None = None
    error: str | None = None
    provider_id: str | None = None
    code: str | None = None
    response: str | None = None

    def as_json(self, now: float) -> dict[str, object]:
        """As `message_complete_many` takes it."""
        return {**self._asdict(), "age": now - self.started, "duration": self.ended - self.started}


@dataclass(frozen=True, slots=True)
class _ScanPosition:
    """Where the last claim ended in a lane's order, and until when claims start there (monotonic)."""

    negated_priority: int
    due_at: datetime
    id: int
    filled_limit: bool = False
    """Whether the last claim found as many as it asked for, so that more may follow."""
    valid_until: float = 0.0
    valid_until_if_filled: float = 0.0


_LANE_START = _ScanPosition(-32768, datetime.min.replace(tzinfo=UTC), 0)


class Store:
    """The outbox over one database connection.

    With `resume_scans`, a claim starts where the lane's last claim ended: before it, index entries of claimed messages stay
    dead while any transaction holds a snapshot. Messages that arrive before the position (a higher priority, a later commit, a
    returned message) are found by the next claim from the head, at the latest after one second. An empty claim does not prove
    that the lane is empty: whoever ends when it is must not use `resume_scans`.
    """

    def __init__(self, database: Database, *, resume_scans: bool = False) -> None:
        self._database = database
        self._resume_scans = resume_scans
        self._scan_positions: dict[str, _ScanPosition] = {}

    async def close(self) -> None:
        """Close the connection; never raises."""
        await self._database.close()

    # --- state transitions ------------------------------------------------------------------------

    async def promote(self, limit: int = 1000) -> int:
        """Make scheduled messages that are due pending; returns how many."""
        return await self._sweep(statement("outbox", "message_promote"), {"batch_limit": limit})

    async def expire(self, limit: int = 1000) -> int:
        """End waiting messages that have expired; returns how many."""
        return await self._sweep(statement("outbox", "message_expire"), {"batch_limit": limit})

    async def claim(
        self, lane: str, limit: int, dispatcher: int | None, lease_seconds: float, run: Execute | None = None
    ) -> list[LeasedMessage]:
        """Lease up to `limit` due messages of a lane, by priority; in the transaction of `run`, if given."""
        asked = time.monotonic()
        last = self._scan_positions.get(lane, _LANE_START)
        start = last if asked < (last.valid_until_if_filled if last.filled_limit else last.valid_until) else _LANE_START
        claim = {
            "lane": lane, "batch_limit": limit, "dispatcher": dispatcher, "token": uuid.uuid4(),
            "lease_seconds": lease_seconds, "after_rank": start.negated_priority, "due_at": start.due_at, "id": start.id,
        }  # fmt: skip
        execute = run or self._database.fetch
        rows = await execute(statement("outbox", "message_claim"), LeasedMessage, claim)
        rows.sort(key=lambda row: (-row.priority, row.due_at, row.id))  # UPDATE ... RETURNING promises no order
        if self._resume_scans:
            if start is _LANE_START:
                now = time.monotonic()
                latest = now + RESCAN_INTERVAL_SECONDS
                last = replace(
                    last, valid_until=min(now + (now - asked) / RESCAN_TIME_SHARE, latest), valid_until_if_filled=latest
                )
            if rows:
                row = rows[-1]
                last = replace(last, negated_priority=-row.priority, due_at=row.due_at, id=row.id)
            self._scan_positions[lane] = replace(last, filled_limit=len(rows) == limit)
        return await _ready(rows, asked, lease_seconds)

    async def has_rescued(self, lane: str) -> bool:
        """Whether the lane has a message whose dispatcher died."""
        return (await self._database.fetch(statement("outbox", "message_is_rescued_waiting"), bool, {"lane": lane}))[0]

    async def claim_rescued(self, lane: str, dispatcher: int | None, lease_seconds: float) -> list[LeasedMessage]:
        """Lease one message whose dispatcher died, if there is one."""
        asked = time.monotonic()
        params = {"lane": lane, "dispatcher": dispatcher, "token": uuid.uuid4(), "lease_seconds": lease_seconds}
        rows = await self._database.fetch(statement("outbox", "message_claim_rescued"), LeasedMessage, params)
        return await _ready(rows, asked, lease_seconds)

    async def claim_within_rate(
        self, name: str, lane: LaneSettings, limit: int, dispatcher: int | None
    ) -> tuple[list[LeasedMessage], float]:
        """As `claim`, in a lane with a rate: at most as many messages as the lane has tokens.

        Without a token, also returns the seconds until the next one (0 when no message waits). The lane's bucket is locked
        from the count to the spending, so dispatchers share the rate exactly.
        """
        interval = 60.0 / lane.rate_per_minute
        bucket = {"key": f"lane:{name}", "burst": lane.rate_burst, "interval": interval}
        async with self._database.transaction() as run:
            [available] = await run(statement("outbox", "rate_lane_tokens"), LaneTokens, bucket)
            limit = min(limit, available.tokens)
            if limit == 0:
                query = {"lanes": [name], "heartbeat_timeout": 0.0, "count_limits": [1]}
                [status] = await run(statement("outbox", "lane_status"), LaneStatus, query)
                return [], available.wait_seconds if status.pending else 0.0
            messages = await self.claim(name, limit, dispatcher, lane.lease_seconds, run)
            await run(statement("outbox", "rate_lane_spend"), int, bucket | {"spent": len(messages)})
        return messages, 0.0

    async def complete(
        self, outcomes: Sequence[Outcome], dispatcher: int | None, dag_run: str | None
    ) -> dict[int, str]:
        """End attempts; returns the state of each message whose lease was still ours."""
        now = time.monotonic()
        # One JSON text: psycopg quotes an array of text in Python, element by element.
        ended = to_json([outcome.as_json(now) for outcome in outcomes]).decode()
        params = {"outcomes": ended, "dispatcher": dispatcher, "dag_run": dag_run}
        try:
            rows = await self._database.fetch(statement("outbox", "message_complete_many"), CompletedMessage, params)
        except Misconfigured as exc:
            if not is_about_a_row(exc):
                raise
            if len(outcomes) == 1:  # what the receiver said cannot be stored, but that it ended can
                log.warning("message %d: its outcome cannot be stored: %s", outcomes[0].message_id, exc)
                text = f"the outcome cannot be stored: {exc}"
                plain = outcomes[0]._replace(error=text, provider_id=None, code=None, response=None)
                return {} if plain == outcomes[0] else await self.complete([plain], dispatcher, dag_run)
            states: dict[int, str] = {}
            for outcome in outcomes:
                states |= await self.complete([outcome], dispatcher, dag_run)
            return states
        return {row.id: row.state for row in rows}

    async def return_unsent(self, messages: Sequence[LeasedMessage]) -> int:
        """Return claimed messages that were not attempted; returns how many were still ours."""
        return len(
            await self._database.fetch(statement("outbox", "message_return_many"), int, lease_parameters(messages))
        )

    async def defer(self, messages: Sequence[tuple[LeasedMessage, float]], reason: str | None = None) -> int:
        """Defer claimed messages by seconds, without using up an attempt; returns how many were still ours.

        Without a reason they wait for a rate token, which is reserved for them.
        """
        delays = [delay for _, delay in messages]
        params = {**lease_parameters(message for message, _ in messages), "delays": delays, "reason": reason}
        return len(await self._database.fetch(statement("outbox", "message_defer_many"), int, params))

    async def failing_endpoints(self, recipients: Iterable[str]) -> set[str]:
        """Which of these webhook endpoints have failed for a while."""
        failing = statement("webhooks", "endpoint_list_failing")
        return set(await self._database.fetch(failing, str, {"ids": list(recipients)}))

    async def reserve_rate_tokens(
        self, keys: list[str], token_counts: list[int], intervals: list[float], burst: int
    ) -> dict[str, float]:
        """Reserve tokens of each bucket; returns the seconds until its first one comes, less than 0 if it is available."""
        params = {"keys": keys, "token_counts": token_counts, "intervals": intervals, "bursts": [burst] * len(keys)}
        rows = await self._database.fetch(statement("outbox", "rate_reserve_many"), ReservedTokens, params)
        return {row.key: row.seconds_to_first_token for row in rows}

    async def renew(self, messages: Sequence[LeasedMessage], lease_seconds: float) -> int:
        """Extend leases, on the messages themselves too; returns how many were still ours."""
        asked = time.monotonic()
        params = {**lease_parameters(messages), "lease_seconds": lease_seconds}
        renewed = set(await self._database.fetch(statement("outbox", "message_renew"), int, params))
        for message in messages:
            if message.id in renewed:
                message.lease_deadline = asked + lease_seconds
        return len(renewed)

    async def cancel_requests(self, dispatcher: int) -> set[int]:
        """Messages leased by this dispatcher whose cancellation was requested."""
        asked = statement("outbox", "message_cancel_requests")
        return set(await self._database.fetch(asked, int, {"dispatcher": dispatcher}))

    async def rescue(self, max_rescues: int, heartbeat_timeout: float, limit: int = 5000) -> int:
        """Take messages back from dead dispatchers and expired leases; returns how many."""
        params = {"max_rescues": max_rescues, "heartbeat_timeout": heartbeat_timeout, "batch_limit": limit}
        return await self._sweep(statement("outbox", "message_rescue"), params)

    async def _sweep(self, sql: LiteralString, params: Mapping[str, object]) -> int:
        """How many messages the statement moved; 0, with a warning, if one of them cannot be: sending must not wait for it."""
        try:
            return len(await self._database.fetch(sql, object, params))
        except Misconfigured as exc:
            if not is_about_a_row(exc):
                raise
            log.warning("messages wait for one that cannot be moved: %s", exc)
            return 0

    # --- queries ----------------------------------------------------------------------------------

    async def status(self, message_id: int) -> MessageStatus | None:
        """The current state of one message."""
        rows = await self._database.fetch(statement("outbox", "message_status"), MessageStatus, {"id": message_id})
        return rows[0] if rows else None

    async def has_work(self) -> bool:
        """Whether any message is pending, due, expired or leased, or a dispatcher is registered: one cheap statement."""
        return (await self._database.fetch(statement("outbox", "outbox_has_work"), bool))[0]

    async def lane_status(self, lanes: Mapping[str, int], heartbeat_timeout: float) -> list[LaneStatus]:
        """The backlog of each lane, counted up to the number given for it, and its dispatchers."""
        params = {"lanes": list(lanes), "count_limits": list(lanes.values()), "heartbeat_timeout": heartbeat_timeout}
        return await self._database.fetch(statement("outbox", "lane_status"), LaneStatus, params)

    # --- dispatchers ------------------------------------------------------------------------------

    async def register(self, lane: str, slots: int, dag_run: str | None) -> tuple[int, bool] | None:
        """Take a free slot of a lane: (dispatcher, whether it succeeds another), or None if all slots are taken."""
        params = {"lane": lane, "slots": slots, "dag_run": dag_run}
        rows = await self._database.fetch(statement("outbox", "dispatcher_register"), Registration, params)
        return (rows[0].id, rows[0].is_successor) if rows else None

    async def heartbeat(self, dispatcher: int, *, handing_over: bool) -> tuple[bool, bool] | None:
        """Record that a dispatcher is alive; (stop requested, has a successor), or None if it was declared dead."""
        params = {"dispatcher": dispatcher, "handing_over": handing_over}
        rows = await self._database.fetch(statement("outbox", "dispatcher_heartbeat"), Heartbeat, params)
        return (rows[0].stop_requested, rows[0].has_successor) if rows else None

    async def unregister(self, dispatcher: int) -> None:
        """Delete a dispatcher's row."""
        await self._database.fetch(statement("outbox", "dispatcher_unregister"), int, {"dispatcher": dispatcher})


def lease_parameters(messages: Iterable[LeasedMessage]) -> dict[str, list[Any]]:
    """The parameters that fence a statement by the messages' lease tokens."""
    leases = [(message.id, message.token) for message in messages]
    return {"ids": [message_id for message_id, _ in leases], "tokens": [token for _, token in leases]}


async def lease_by_id(run: Execute, message_id: int, lease_seconds: float) -> LeasedMessage | None:
    """Lease one message inside a transaction; None if it is final or leased by another process."""
    asked = time.monotonic()
    params = {"id": message_id, "token": uuid.uuid4(), "lease_seconds": lease_seconds}
    rows = await run(statement("outbox", "message_lease_one"), LeasedMessage, params)
    return next(iter(await _ready(rows, asked, lease_seconds)), None)


async def _ready(messages: list[LeasedMessage], asked: float, lease_seconds: float) -> list[LeasedMessage]:
    """A claim's messages, parsed, with deadlines that count from before the claim was sent: a lease never ends late here."""
    for message in messages:
        message.lease_deadline = asked + lease_seconds
        message.send_deadline = None if message.seconds_to_live is None else asked + message.seconds_to_live
        if len(message.payload_json) > LARGE_PAYLOAD_LENGTH:
            await asyncio.sleep(0)  # heartbeats go on meanwhile
        try:
            message.payload = from_json(message.payload_json)
        except ValueError as exc:
            message.problem = InvalidInput("payload", f"cannot be read: {exc}")
    return messages
