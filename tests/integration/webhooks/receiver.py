"""An endpoint on loopback with scripted responses, which records its requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass(frozen=True)
class ReceivedRequest:
    """One request."""

    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Answers in order (status, headers, body), the last one for ever."""

    responses: list[tuple[int, dict[str, str], str]] = field(default_factory=lambda: [(200, {}, "thanks")])
    requests: list[ReceivedRequest] = field(default_factory=list)
    request_arrived: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[object] = field(default_factory=set)
    port: int = 0
    delay_seconds: float = 0.0
    drop_count: int = 0
    """How many requests are cut off without an answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=in-the-url"

    def respond_with(self, *statuses: int | tuple[int, dict[str, str], str]) -> None:
        self.responses = [status if isinstance(status, tuple) else (status, {}, "") for status in statuses]

    @property
    def webhook_ids(self) -> Sequence[str]:
        return [one.headers["webhook-id"] for one in self.requests]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.connections.add(request.transport)
        body = await request.read()
        self.requests.append(ReceivedRequest({name.lower(): value for name, value in request.headers.items()}, body))
        self.request_arrived.set()
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if self.drop_count:
            self.drop_count -= 1
            assert request.transport
            request.transport.close()
            return web.Response()
        status, headers, text = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        return web.Response(status=status, headers=headers, text=text)


@asynccontextmanager
async def running_receiver() -> AsyncIterator[Receiver]:
    """A receiver that listens until the end."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        await runner.cleanup()
