"""What the engine asks of the database, one method a statement of `include/sql/outbox.sql`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from psycopg.rows import DictRow
from pydantic_core import to_json

from backline.db.connect import Database, Execute
from backline.db.statements import statement
from backline.settings import LaneSettings

RESCAN_INTERVAL_SECONDS = 1.0
"""The longest that claims go on from their mark without a look at the head of the lane."""
RESCAN_TIME_SHARE = 0.1
"""The share of the time that looks at the head may take when no more follows the mark: a cheap one is repeated at once."""


@dataclass(slots=True)
class LeasedMessage:
    """A message that is ours until `until` (on this process's monotonic clock)."""

    id: int
    type: str
    recipient: str
    payload: Mapping[str, Any]
    created_at: datetime
    attempt: int
    """Tries that ended before this one."""
    max_attempts: int
    rate_token_reserved: bool
    token: uuid.UUID
    lease_deadline: float
    send_deadline: float | None
    """When it would come too late (monotonic), or None."""
    has_preferences: bool
    """Whether any recipient has wishes that are to be looked up before it is sent."""


class Outcome(NamedTuple):
    """How one try ended. `state` is final, or `scheduled` for a retry after `delay` seconds."""

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
        return {
            "message_id": self.message_id,
            "token": self.token,
            "state": self.state,
            "delay": self.delay,
            "error_class": self.error_class,
            "error": self.error,
            "provider_id": self.provider_id,
            "code": self.code,
            "response": self.response,
            "age": now - self.started,
            "duration": self.ended - self.started,
        }


@dataclass(frozen=True, slots=True)
class _ScanPosition:
    """Where the last claim ended in a lane's order, and until when claims start there (monotonic)."""

    negated_priority: int
    due_at: datetime
    id: int
    filled_limit: bool = False
    """Whether the last claim took as many as it wanted, so that more may follow."""
    valid_until: float = 0.0
    valid_until_if_filled: float = 0.0


_LANE_START = _ScanPosition(-32768, datetime.min.replace(tzinfo=UTC), 0)


def _sql(name: str, params: Mapping[str, Any] | None = None) -> tuple[Any, Mapping[str, Any]]:
    return statement("outbox", name), params or {}


class Store:
    """The outbox behind one database connection.

    With `marking`, a claim goes on where the lane's last one ended instead of at its head, where the dead index entries
    of everything claimed before may stand: no one can remove them while a snapshot is held, so each claim would walk
    over all of them. What has come before the mark meanwhile (a higher priority, a later commit, a message given back)
    is seen by the next look from the head: when the mark's claims no longer fill up and such looks take no more than a
    tenth of the time, and after a second in any case. So order is late by a second at most and nothing starves; but an
    empty claim does not prove that the lane is empty, so one who ends when it is must not mark.
    """

    def __init__(self, database: Database, *, resume_scans: bool = False) -> None:
        self._database = database
        self._resume_scans = resume_scans
        self._scan_positions: dict[str, _ScanPosition] = {}

    async def _rows(self, name: str, **params: Any) -> list[DictRow]:
        return await self._database.fetch(*_sql(name, params))

    async def close(self) -> None:
        """Close the connection; never raises."""
        await self._database.close()

    # --- moving messages through their states -------------------------------------------------

    async def promote(self, limit: int = 1000) -> int:
        """Make messages that came due pending; returns how many."""
        return len(await self._rows("message_promote", batch_limit=limit))

    async def expire(self, limit: int = 1000) -> int:
        """End waiting messages whose time is over; returns how many."""
        return len(await self._rows("message_expire", batch_limit=limit))

    async def claim(self, lane: str, limit: int, dispatcher: int | None, lease_seconds: float) -> list[LeasedMessage]:
        """Take up to `most` due messages of a lane, first priority first."""
        return await self._claim(self._database.fetch, lane, limit, dispatcher, lease_seconds)

    async def _claim(
        self, run: Execute, lane: str, limit: int, dispatcher: int | None, lease_seconds: float
    ) -> list[LeasedMessage]:
        asked = time.monotonic()
        mark = self._scan_positions.get(lane, _LANE_START)
        start = mark if asked < (mark.valid_until_if_filled if mark.filled_limit else mark.valid_until) else _LANE_START
        claim = {
            "lane": lane, "batch_limit": limit, "dispatcher": dispatcher, "token": uuid.uuid4(), "lease_seconds": lease_seconds,
            "after_rank": start.negated_priority, "due_at": start.due_at, "id": start.id,
        }  # fmt: skip
        rows = in_claim_order(await run(*_sql("message_claim", claim)))
        if self._resume_scans:
            if start is _LANE_START:
                now = time.monotonic()
                latest = now + RESCAN_INTERVAL_SECONDS
                mark = replace(
                    mark, valid_until=min(now + (now - asked) / RESCAN_TIME_SHARE, latest), valid_until_if_filled=latest
                )
            if rows:
                last = rows[-1]
                mark = replace(mark, negated_priority=-last["priority"], due_at=last["due_at"], id=last["id"])
            self._scan_positions[lane] = replace(mark, filled_limit=len(rows) == limit)
        return to_leased_messages(rows, asked, lease_seconds)

    async def claim_rescued(self, lane: str, dispatcher: int | None, lease_seconds: float) -> list[LeasedMessage]:
        """Take one message whose dispatcher had died, if there is one."""
        asked = time.monotonic()
        rows = await self._rows(
            "message_claim_rescued", lane=lane, dispatcher=dispatcher, token=uuid.uuid4(), lease_seconds=lease_seconds
        )
        return to_leased_messages(rows, asked, lease_seconds)

    async def claim_within_rate(
        self, name: str, lane: LaneSettings, limit: int, dispatcher: int | None
    ) -> tuple[list[LeasedMessage], float]:
        """As `claim`, in a lane with a rate: as many as it has tokens.

        With none left, also how many seconds the messages that wait have to wait (0 when none does).

        The lane's bucket is locked from the count to the spending, so dispatchers share the rate exactly.
        """
        interval = 60.0 / lane.rate_per_minute
        bucket = {"key": f"lane:{name}", "burst": lane.rate_burst, "interval": interval}
        async with self._database.transaction() as run:
            available = (await run(*_sql("rate_lane_tokens", bucket)))[0]
            limit = min(limit, available["tokens"])
            if limit == 0:
                look = {"lanes": [name], "heartbeat_timeout": 0.0, "count_limits": [1]}
                waiting = (await run(*_sql("lane_status", look)))[0]["pending"]
                return [], float(available["wait_seconds"]) if waiting else 0.0
            messages = await self._claim(run, name, limit, dispatcher, lane.lease_seconds)
            await run(*_sql("rate_lane_spend", bucket | {"spent": len(messages)}))
        return messages, 0.0

    async def complete(
        self, outcomes: Sequence[Outcome], dispatcher: int | None, dag_run: str | None
    ) -> dict[int, str]:
        """End tries; returns the state of each message that was still ours. The others were taken over."""
        now = time.monotonic()
        rows = await self._rows(
            "message_complete_many",
            # As one JSON text: psycopg's arrays of text are quoted element by element in Python.
            outcomes=to_json([outcome.as_json(now) for outcome in outcomes]).decode(),
            dispatcher=dispatcher,
            dag_run=dag_run,
        )
        return {row["id"]: row["state"] for row in rows}

    async def return_unsent(self, messages: Sequence[LeasedMessage]) -> int:
        """Return messages that were claimed and not tried; returns how many were still ours."""
        return len(
            await self._rows("message_return_many", ids=[m.id for m in messages], tokens=[m.token for m in messages])
        )

    async def defer(self, messages: Sequence[tuple[LeasedMessage, float]]) -> int:
        """Put messages off by seconds, at no cost of an attempt; a rate token that they wait for is theirs then."""
        return len(
            await self._rows(
                "message_defer_many",
                ids=[m.id for m, _ in messages],
                tokens=[m.token for m, _ in messages],
                delays=[delay for _, delay in messages],
            )
        )

    async def failing_endpoints(self, recipients: Iterable[str]) -> set[str]:
        """Which of these webhook endpoints have failed for a while."""
        rows = await self._database.fetch(statement("webhooks", "endpoint_list_failing"), {"ids": list(recipients)})
        return {row["id"] for row in rows}

    async def reserve_rate_tokens(self, wanted: Mapping[str, tuple[int, float, int]]) -> dict[str, float]:
        """Reserve tokens: bucket to (how many, seconds between two, burst).

        Returns for each bucket the seconds until its first token comes, less than zero for at once.
        """
        rows = await self._rows(
            "rate_reserve_many",
            keys=list(wanted),
            token_counts=[count for count, _, _ in wanted.values()],
            intervals=[interval for _, interval, _ in wanted.values()],
            bursts=[burst for _, _, burst in wanted.values()],
        )
        return {row["key"]: row["seconds_to_first_token"] for row in rows}

    async def renew(self, messages: Sequence[LeasedMessage], lease_seconds: float) -> int:
        """Lengthen leases, on the messages themselves too; returns how many were still ours."""
        asked = time.monotonic()
        rows = await self._rows(
            "message_renew",
            ids=[m.id for m in messages],
            tokens=[m.token for m in messages],
            lease_seconds=lease_seconds,
        )
        ours = {row["id"] for row in rows}
        for message in messages:
            if message.id in ours:
                message.lease_deadline = asked + lease_seconds
        return len(ours)

    async def cancel_requests(self, dispatcher: int) -> set[int]:
        """Messages in this dispatcher's hands that somebody has taken back."""
        return {row["id"] for row in await self._rows("message_cancel_requests", dispatcher=dispatcher)}

    async def rescue(self, max_rescues: int, heartbeat_timeout: float, limit: int = 5000) -> int:
        """Take messages from dead dispatchers and expired leases; returns how many."""
        return len(
            await self._rows(
                "message_rescue", max_rescues=max_rescues, heartbeat_timeout=heartbeat_timeout, batch_limit=limit
            )
        )

    async def cancel(self, message_id: int) -> str | None:
        """Take a message back; `cancelled`, `leased` if its holder was asked to, None if it was final already."""
        rows = await self._rows("message_cancel", id=message_id)
        return rows[0]["state"] if rows else None

    async def retry(self, message_id: int) -> bool:
        """Revive a dead message under its own id; False if it is not dead, has expired or had secrets."""
        return bool(await self._rows("message_retry", id=message_id))

    # --- looking --------------------------------------------------------------------------------

    async def status(self, message_id: int) -> DictRow | None:
        """Where one message stands."""
        rows = await self._rows("message_status", id=message_id)
        return rows[0] if rows else None

    async def attempts(self, message_id: int) -> list[DictRow]:
        """The tries of one message, first to last."""
        return await self._rows("message_attempts", id=message_id)

    async def has_work(self) -> bool:
        """Whether any message is pending, due, expired or leased, or a dispatcher is registered: one cheap statement."""
        return bool((await self._rows("outbox_has_work"))[0]["has_work"])

    async def lane_status(self, lanes: Mapping[str, int], heartbeat_timeout: float) -> list[DictRow]:
        """What waits in each lane, counted up to the number given for it, and who serves it."""
        return await self._rows(
            "lane_status", lanes=list(lanes), count_limits=list(lanes.values()), heartbeat_timeout=heartbeat_timeout
        )

    # --- dispatchers ------------------------------------------------------------------------------

    async def register(self, lane: str, slots: int, dag_run: str | None) -> tuple[int, bool] | None:
        """Take a free slot of a lane: (dispatcher, whether it succeeds another), or None if all are served."""
        rows = await self._rows("dispatcher_register", lane=lane, slots=slots, dag_run=dag_run)
        return (rows[0]["id"], rows[0]["is_successor"]) if rows else None

    async def heartbeat(self, dispatcher: int, *, handing_over: bool) -> tuple[bool, bool] | None:
        """Say that a dispatcher lives; (stop requested, successor is there), or None if it was taken for dead."""
        rows = await self._rows("dispatcher_heartbeat", dispatcher=dispatcher, handing_over=handing_over)
        return (rows[0]["stop_requested"], rows[0]["has_successor"]) if rows else None

    async def unregister(self, dispatcher: int) -> None:
        """Take a dispatcher's row away."""
        await self._rows("dispatcher_unregister", dispatcher=dispatcher)


async def lease_by_id(run: Execute, message_id: int, lease_seconds: float) -> LeasedMessage | None:
    """Take one message inside a transaction; None if it is final or held by another."""
    asked = time.monotonic()
    params = {"id": message_id, "token": uuid.uuid4(), "lease_seconds": lease_seconds}
    rows = await run(*_sql("message_lease_one", params))
    return next(iter(to_leased_messages(rows, asked, lease_seconds)), None)


def in_claim_order(rows: Sequence[DictRow]) -> list[DictRow]:
    """Rows of a claim in the lane's order: UPDATE ... RETURNING promises none."""
    return sorted(rows, key=lambda row: (-row["priority"], row["due_at"], row["id"]))


def to_leased_messages(rows: Sequence[DictRow], asked: float, lease_seconds: float) -> list[LeasedMessage]:
    """Rows of a claim as leases. Times count from before the claim was sent, so ours never end late."""
    return [
        LeasedMessage(
            id=row["id"],
            type=row["type"],
            recipient=row["recipient"],
            payload=row["payload"],
            created_at=row["created_at"],
            attempt=row["attempt"],
            max_attempts=row["max_attempts"],
            rate_token_reserved=row["rate_token_reserved"],
            token=row["lease_token"],
            lease_deadline=asked + lease_seconds,
            send_deadline=None if row["seconds_to_live"] is None else asked + row["seconds_to_live"],
            has_preferences=row["has_preferences"],
        )
        for row in rows
    ]
