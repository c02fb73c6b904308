"""Delivering one message inside the run that enqueued it (`send_<type>`), never twice.

The row is keyed by the run, so every try of the run finds the same row, and takes it under a lease before it sends:
a message that is final is not sent again, and one that a dispatcher holds is left to it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic

from backline.channels.base import Channel, P
from backline.db.connect import Database
from backline.db.statements import statement
from backline.errors import DatabaseFailure, FailureClass
from backline.outbox.delivery import Delivery
from backline.outbox.screening import Screen
from backline.outbox.store import Leased, Store, leased_now
from backline.settings import LaneSettings


@dataclass(frozen=True, slots=True)
class Request:
    """What a run wants sent."""

    type: str
    recipient: str
    payload: Mapping[str, Any]
    key: str
    """Idempotency key: the run's identity."""
    request_id: str | None = None
    expires_at: datetime | None = None
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Where the message stands after this try. Holds nothing secret: it goes into XCom."""

    message_id: int
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


class DirectSender(Generic[P]):
    """Enqueues a message and delivers it at once."""

    def __init__(self, dsn: str, channel: Channel[P], delivery: Delivery[P], lane: LaneSettings) -> None:
        self._database = Database(dsn, name="send")
        self._store = Store(self._database)
        self._screen = Screen(self._database, lane)
        self._channel = channel
        self._delivery = delivery
        self._lease_seconds = lane.lease_seconds

    async def send(self, request: Request, dag_run: str | None) -> Result:
        """One try. InvalidInput if the request is wrong; DatabaseFailure if the database is away."""
        try:
            message_id, leased = await self._enqueue_and_lease(request)
            for held in (await self._screen.screen(leased)).admitted:
                session = self._channel.session()
                renewing = asyncio.create_task(self._keep_lease(held))
                try:
                    outcome = await self._delivery.attempt(held, session)
                finally:
                    renewing.cancel()
                    await asyncio.gather(renewing, return_exceptions=True)
                    await session.close()
                await self._store.complete([outcome], None, dag_run)
            return await self._result(message_id)
        finally:
            await self._store.close()

    async def _enqueue_and_lease(self, request: Request) -> tuple[int, list[Leased]]:
        """In one transaction, so that no dispatcher sees the row in between. Nothing is leased if it is not ours to send."""
        async with self._database.transaction() as run:
            rows = await run(
                statement("outbox", "enqueue"),
                {
                    "type": request.type, "recipient": request.recipient, "payload": json.dumps(request.payload),
                    "due_at": None, "priority": request.priority, "idempotency_key": request.key,
                    "expires_at": request.expires_at, "request_id": request.request_id, "lane": None,
                },
            )  # fmt: skip
            message_id = int(rows[0]["id"])
            held = await leased_now(run, message_id, self._lease_seconds)
        return message_id, [held] if held else []

    async def _keep_lease(self, held: Leased) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            await self._store.renew([held], self._lease_seconds)

    async def _result(self, message_id: int) -> Result:
        row = await self._store.status(message_id)
        if row is None:
            raise DatabaseFailure(f"message {message_id} is gone: pruned, or the database was restored")
        return Result(
            message_id=message_id,
            state=row["state"],
            attempt=row["attempt"],
            provider_id=row["provider_id"],
            error_class=FailureClass(row["error_class"]) if row["error_class"] else None,
            error=row["error"],
            due_in=max(0.0, row["seconds_to_due"]),
        )
