"""The order in which messages use one connection."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """A lock whose waiters stop waiting when one holder keeps it for long.

    One timer for all: with `asyncio.timeout` around `asyncio.Lock.acquire` each message would start its own, which takes 5 µs.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        """Seconds; the wait ends between one and two times as long after the holder's start."""
        self._is_taken = False
        self._count = 0
        self._is_watched = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for the turn, first come, first served; TimeoutError if its holder keeps it for long."""
        if self._is_taken:
            await self._wait()
        self._is_taken = True
        self._count += 1

    def pass_on(self) -> None:
        """End the turn."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._is_taken = False

    async def wait_until_free(self) -> None:
        """Wait until nobody holds the turn, or waited for it before, however long that takes."""
        while True:
            try:
                await self.take()
            except TimeoutError:
                continue
            return self.pass_on()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        if not self._is_watched:
            self._watch()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:  # it came at the same moment
                self.pass_on()
            raise

    def _watch(self) -> None:
        self._is_watched = True
        asyncio.get_running_loop().call_later(self._patience, self._end_long_waits, self._count)

    def _end_long_waits(self, count: int) -> None:
        self._is_watched = False
        if count == self._count:
            while self._waiting:
                waiter = self._waiting.popleft()
                if not waiter.done():
                    waiter.set_exception(TimeoutError())
        if self._waiting:
            self._watch()
