"""Delivers a message inside the run that enqueues it (`send_<type>`), never twice.

The run's identity is the message's idempotency key, so each attempt of the run finds the same message and leases it before it
sends: a message in a final state is not sent again, and one leased by a dispatcher is left to it. A type of several channels
has one message per channel, each delivered on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from backline.channels.base import Channel
from backline.db.connect import Database
from backline.db.statements import statement
from backline.errors import DatabaseFailure, FailureClass
from backline.outbox.delivery import Delivery
from backline.outbox.recipient_policy import PreferenceFilter, each_alone, upgrade_payloads
from backline.outbox.store import LeasedMessage, Store, lease_by_id
from backline.outbox.submission import NewMessage, enqueue_statement
from backline.settings import LaneSettings

_FAILURE_CLASSES: Mapping[str, FailureClass] = {each.value: each for each in FailureClass}


@dataclass(frozen=True, slots=True)
class SendResult:
    """The message's state after this attempt. Contains no secret: it is stored in XCom."""

    message_id: int
    channel: str
    state: str
    attempt: int
    provider_id: str | None
    error_class: FailureClass | None
    error: str | None
    due_in: float
    """Seconds until the message is due again, when its state is not final."""

    @property
    def final(self) -> bool:
        """Whether the message has ended."""
        return self.state not in ("scheduled", "pending", "leased")


@dataclass(frozen=True, slots=True)
class EnqueuedMessage:
    """A message of those just enqueued."""

    id: int
    channel: str


class Route(NamedTuple):
    """How messages of one channel are delivered."""

    channel: Channel[Any]
    delivery: Delivery[Any]
    lane: LaneSettings


class InlineSender:
    """Enqueues a message and delivers it at once, over the channels of its recipient: `routes`."""

    def __init__(self, dsn: str, routes: Mapping[str, Route]) -> None:
        self._database = Database(dsn, name="send")
        self._store = Store(self._database)
        self._routes = routes

    async def send(self, message: NewMessage, dag_run: str | None) -> list[SendResult]:
        """Attempt delivery once; a result for each channel. InvalidInput if the message is invalid; DatabaseFailure."""
        try:
            found = await self._enqueue_and_lease(message)
            results = await asyncio.gather(
                *[
                    self._deliver(self._routes[channel], leased, dag_run)
                    for channel, leased in found.values()
                    if leased is not None
                ],
                return_exceptions=True,  # a failure in one channel must not interrupt another's delivery
            )
            if failures := [one for one in results if one is not None]:
                raise failures[0]
            return [await self._result(message_id) for message_id in found]
        finally:
            await self._store.close()

    async def _deliver(self, route: Route, message: LeasedMessage, dag_run: str | None) -> None:
        async def admit(messages: list[LeasedMessage]) -> list[LeasedMessage]:
            upgraded = await upgrade_payloads(self._store, messages)
            return (await PreferenceFilter(self._database, route.lane).apply(upgraded)).admitted

        for admitted in await each_alone(admit, [message]):
            session = route.channel.session()
            renewing = asyncio.create_task(self._renew_lease(admitted, route.lane.lease_seconds))
            try:
                outcome = await route.delivery.attempt(admitted, session)
            finally:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)
                await session.close()
            await self._store.complete([outcome], None, dag_run)

    async def _enqueue_and_lease(self, message: NewMessage) -> dict[int, tuple[str, LeasedMessage | None]]:
        """Messages by id: channel, and the lease unless another has it. One transaction, so no dispatcher claims them first."""
        async with self._database.transaction() as run:
            sql, params = enqueue_statement([message])
            [[accepted_id]] = await run(sql, list[int], params)
            found = await run(statement("outbox", "message_list_enqueued"), EnqueuedMessage, {"id": accepted_id})
            if not found:
                raise DatabaseFailure(f"message {accepted_id} is gone: pruned, or the database was restored")
            return {
                one.id: (one.channel, await lease_by_id(run, one.id, self._routes[one.channel].lane.lease_seconds))
                for one in found
            }

    async def _renew_lease(self, message: LeasedMessage, lease_seconds: float) -> None:
        while True:
            await asyncio.sleep(lease_seconds / 3)
            await self._store.renew([message], lease_seconds)

    async def _result(self, message_id: int) -> SendResult:
        row = await self._store.status(message_id)
        if row is None:
            raise DatabaseFailure(f"message {message_id} is gone: pruned, or the database was restored")
        error_class = None if row.error_class is None else _FAILURE_CLASSES.get(row.error_class, FailureClass.UNKNOWN)
        return SendResult(
            message_id, row.channel, row.state, row.attempt, row.provider_id, error_class, row.error,
            max(0.0, row.seconds_to_due),
        )  # fmt: skip
