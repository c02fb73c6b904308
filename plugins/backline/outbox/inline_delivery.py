"""Delivering a message inside the run that enqueued it (`send_<type>`), never twice.

The row is keyed by the run, so every try of the run finds the same row, and takes it under a lease before it sends:
a message that is final is not sent again, and one that a dispatcher holds is left to it. A type of several channels has a
row for each, and each goes its own way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from backline.channels.base import Channel
from backline.db.connect import Database
from backline.db.statements import statement
from backline.errors import DatabaseFailure, FailureClass
from backline.outbox.delivery import Delivery
from backline.outbox.recipient_policy import PreferenceFilter
from backline.outbox.store import LeasedMessage, Store, lease_by_id
from backline.outbox.submission import NewMessage, enqueue_statement
from backline.settings import LaneSettings


@dataclass(frozen=True, slots=True)
class SendRequest:
    """What a run wants sent."""

    type: str
    recipient: str
    """An address; for a type of several channels a JSON object by channel."""
    payload: Mapping[str, Any]
    key: str
    """Idempotency key: the run's identity."""
    request_id: str | None = None
    expires_at: datetime | None = None
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class SendResult:
    """Where the message stands after this try. Holds nothing secret: it goes into XCom."""

    message_id: int
    channel: str
    state: str
    attempt: int
    provider_id: str | None
    error_class: FailureClass | None
    error: str | None
    due_in: float
    """Seconds until there is something to do again, when the state is not final."""

    @property
    def final(self) -> bool:
        """Whether the message has ended."""
        return self.state not in ("scheduled", "pending", "leased")


class Route(NamedTuple):
    """How messages of one channel are delivered."""

    channel: Channel[Any]
    delivery: Delivery[Any]
    lane: LaneSettings


class InlineSender:
    """Enqueues a message and delivers it at once."""

    def __init__(self, dsn: str, routes: Mapping[str, Route]) -> None:
        """`ways` by channel: those that the request's recipient has."""
        self._database = Database(dsn, name="send")
        self._store = Store(self._database)
        self._routes = routes

    async def send(self, request: SendRequest, dag_run: str | None) -> list[SendResult]:
        """One try; a result for each channel. InvalidInput if the request is wrong; DatabaseFailure if the database is away."""
        try:
            taken = await self._enqueue_and_lease(request)
            ended = await asyncio.gather(
                *[
                    self._deliver(self._routes[channel], held, dag_run)
                    for channel, held in taken.values()
                    if held is not None
                ],
                return_exceptions=True,  # one way's trouble must not end another in mid-delivery
            )
            if troubles := [one for one in ended if one is not None]:
                raise troubles[0]
            return [await self._result(message_id) for message_id in taken]
        finally:
            await self._store.close()

    async def _deliver(self, way: Route, held: LeasedMessage, dag_run: str | None) -> None:
        for admitted in (await PreferenceFilter(self._database, way.lane).apply([held])).admitted:
            session = way.channel.session()
            renewing = asyncio.create_task(self._renew_lease(admitted, way.lane.lease_seconds))
            try:
                outcome = await way.delivery.attempt(admitted, session)
            finally:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)
                await session.close()
            await self._store.complete([outcome], None, dag_run)

    async def _enqueue_and_lease(self, request: SendRequest) -> dict[int, tuple[str, LeasedMessage | None]]:
        """Messages by id: their channel, and the lease if it is ours. In one transaction: no dispatcher sees the rows in between."""
        async with self._database.transaction() as run:
            message = NewMessage(
                request.type, request.recipient, request.payload, request.key, expires_at=request.expires_at,
                priority=request.priority, request_id=request.request_id,
            )  # fmt: skip
            [row] = await run(*enqueue_statement([message]))
            [accepted_id] = row["ids"]
            found = await run(statement("outbox", "message_list_enqueued"), {"id": accepted_id})
            if not found:
                raise DatabaseFailure(f"message {accepted_id} is gone: pruned, or the database was restored")
            return {
                int(one["id"]): (
                    one["channel"],
                    await lease_by_id(run, one["id"], self._routes[one["channel"]].lane.lease_seconds),
                )
                for one in found
            }

    async def _renew_lease(self, held: LeasedMessage, lease_seconds: float) -> None:
        while True:
            await asyncio.sleep(lease_seconds / 3)
            await self._store.renew([held], lease_seconds)

    async def _result(self, message_id: int) -> SendResult:
        row = await self._store.status(message_id)
        if row is None:
            raise DatabaseFailure(f"message {message_id} is gone: pruned, or the database was restored")
        return SendResult(
            message_id=message_id,
            channel=row["channel"],
            state=row["state"],
            attempt=row["attempt"],
            provider_id=row["provider_id"],
            error_class=FailureClass(row["error_class"]) if row["error_class"] else None,
            error=row["error"],
            due_in=max(0.0, row["seconds_to_due"]),
        )
