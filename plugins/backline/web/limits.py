"""What requests may use: bytes and seconds of bodies, and threads. What is over a limit is refused, and the refusal names the limit."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from backline.web.problems import RETRY_AFTER_SECONDS, ApiError
from backline.web.settings import HttpSettings

MAX_PUBLIC_BODIES_BYTES = 16 * 2**20
"""Of all bodies without a login at one time: they leave room for those with one."""
LARGE_BODY_BYTES = 2**20
TRIM_DELAY_SECONDS = 1.0
"""After a larger body the C library is told to return free memory to the system: on its own it may keep all of it."""
MAX_BATCH_VALUES = 500_000
MAX_OBJECT_VALUES = 50_000
"""Values in a body of JSON, by its commas and brackets: each may take a hundred times its text's memory."""


class RequestLimits:
    """The limits of one api-server process, and what is in use of them."""

    def __init__(self, config: HttpSettings) -> None:
        self._max_body_bytes = int(config.max_body_mib * 2**20)
        self._body_seconds = config.body_timeout_seconds
        self._free_bytes = {False: int(config.max_bodies_mib * 2**20), True: MAX_PUBLIC_BODIES_BYTES}
        self._turns = asyncio.Semaphore(config.max_concurrent_requests)
        self._turn_seconds = config.pool_timeout_seconds
        self._trim: asyncio.TimerHandle | None = None

    def max_body_bytes(self, declared: int) -> int:
        """The limit of a route that declares one."""
        return min(declared, self._max_body_bytes)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one of `http.max_concurrent_requests` turns: Airflow's own requests use the same threads. 503 if none is free."""
        try:
            async with asyncio.timeout(self._turn_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise _busy("http.max_concurrent_requests") from None
        try:
            yield
        finally:
            self._turns.release()

    @asynccontextmanager
    async def body(self, request: Request, declared: int, *, public: bool) -> AsyncIterator[bytes]:
        """A request's body, which counts as in use until the context ends. 413, 408 or 503 beyond a limit."""
        taken = 0

        async def read() -> bytes:
            nonlocal taken
            limit = self.max_body_bytes(declared)
            too_large = _too_large(limit, is_setting=limit < declared)
            length = request.headers.get("content-length", "")
            if length.isdecimal() and (len(length) > 18 or int(length) > limit):
                raise too_large
            received, more = bytearray(), True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(400, "The request's body is incomplete")
                chunk, more = message.get("body", b""), message.get("more_body", False)
                if taken + len(chunk) > limit:
                    raise too_large
                if len(chunk) > self._free_bytes[public]:
                    raise _busy("http.max_bodies_mib")
                self._free_bytes[public] -= len(chunk)
                taken += len(chunk)
                received += chunk
            return bytes(received)

        try:
            try:
                async with asyncio.timeout(self._body_seconds):
                    body = await read()
            except TimeoutError:
                detail = f"The body was not complete after {self._body_seconds:g} s (http.body_timeout_seconds)"
                raise ApiError(408, detail, headers={"Connection": "close"}) from None
            yield body
        finally:
            self._free_bytes[public] += taken
            if taken > LARGE_BODY_BYTES and self._trim is None:
                self._trim = asyncio.get_running_loop().call_later(TRIM_DELAY_SECONDS, self._give_back_memory)

    def _give_back_memory(self) -> None:
        self._trim = None
        if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc
            trim(0)


def check_values(body: bytes, limit: int) -> None:
    """422 for JSON with more values, before it is parsed."""
    if len(body) > limit and sum(map(body.count, (b",", b"[", b"{"))) > limit:
        raise ApiError(422, f"The limit is {limit:,} values in a body; send less at once")


def _too_large(limit: int, *, is_setting: bool) -> ApiError:
    setting = " (http.max_body_mib); split the messages up" if is_setting else " for this path"
    size = f"{limit / 2**20:g} MiB" if limit >= 2**20 else f"{limit / 2**10:g} KiB"
    return ApiError(413, f"The limit of a request's body is {size}{setting}")


def _busy(setting: str) -> ApiError:
    detail = f"Too many requests at one time ({setting}); repeat it later."
    return ApiError(503, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
