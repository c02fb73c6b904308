"""An endpoint on loopback that answers as it is told, and remembers what it got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass(frozen=True)
class Got:
    """One request."""

    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Answers in order (status, headers, body), the last one for ever."""

    answers: list[tuple[int, dict[str, str], str]] = field(default_factory=lambda: [(200, {}, "thanks")])
    got: list[Got] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[object] = field(default_factory=set)
    port: int = 0
    hold: float = 0.0
    drop: int = 0
    """How many requests are cut off without an answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=in-the-url"

    def answer(self, *statuses: int | tuple[int, dict[str, str], str]) -> None:
        self.answers = [status if isinstance(status, tuple) else (status, {}, "") for status in statuses]

    @property
    def ids(self) -> Sequence[str]:
        return [one.headers["webhook-id"] for one in self.got]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.connections.add(request.transport)
        body = await request.read()
        self.got.append(Got({name.lower(): value for name, value in request.headers.items()}, body))
        self.came.set()
        if self.hold:
            await asyncio.sleep(self.hold)
        if self.drop:
            self.drop -= 1
            assert request.transport
            request.transport.close()
            return web.Response()
        status, headers, text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=status, headers=headers, text=text)


@asynccontextmanager
async def listening() -> AsyncIterator[Receiver]:
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
