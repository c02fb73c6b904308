"""Ending a connection without an answer, which ASGI has no word for."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class ConnectionDropped(BaseException):
    """Raised by a handler that wants the connection dropped. No Exception: the framework would answer 500 to one."""


class DropConnectionMiddleware:
    """Around the whole application: a Dropped aborts the connection under it. For uvicorn, whose `send` knows it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        try:
            await self._app(scope, receive, send)
        except ConnectionDropped:
            send.__self__.transport.abort()  # type: ignore[attr-defined]
            while (await receive())["type"] != "http.disconnect":
                pass
