"""Requests to an ASGI app without a server: the body arrives as the test decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message

Receive = Callable[[], Awaitable[Message]]


@dataclass
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def arriving(*chunks: bytes, then: Callable[[], Awaitable[Message]] | None = None) -> Receive:
    """A body in chunks; with `then`, the rest is what it returns."""
    waiting = list(chunks)

    async def receive() -> Message:
        if waiting:
            chunk = waiting.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(waiting) or then is not None}
        return await then() if then else {"type": "http.disconnect"}

    return receive


async def never() -> Message:
    """Nothing more ever arrives."""
    return await asyncio.Event().wait()  # type: ignore[return-value]


async def unread() -> Message:
    raise AssertionError("the body was read")


async def request(
    app: ASGIApp, method: str, target: str, headers: Mapping[str, bytes] | None = None, receive: Receive | None = None
) -> Answer:
    """Send one request; `target` is percent-encoded."""
    from urllib.parse import unquote

    path, _, query = target.partition("?")
    given = [(name.lower().encode(), value) for name, value in ({"Host": b"testserver"} | dict(headers or {})).items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "root_path": "",
        "path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(), "headers": given,
        "client": ("127.0.0.1", 1), "server": ("testserver", 80), "state": {},
    }  # fmt: skip
    started: dict[str, Any] = {}
    parts: list[bytes] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive or arriving(b""), send)
    names = {name.decode("latin-1"): value.decode("latin-1") for name, value in started["headers"]}
    return Answer(started["status"], names, b"".join(parts))
