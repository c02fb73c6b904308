"""Routes, and their bodies. The API's JSON is parsed by pydantic: Python's parser accepts lone surrogates, UTF-16 and deeper nesting."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import iscoroutinefunction
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from backline.web.limits import MAX_OBJECT_VALUES, RequestLimits, check_values
from backline.web.problems import ApiError, check_media_type, invalid_request
from backline.web.roles import ENABLED_BY, LEAST_ROLE, MAX_BODY, NOBODY, Role, require_role

_OBJECT_ADAPTER = TypeAdapter(dict[str, Any])
METHODS_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})


class CheckedRoute(APIRoute):
    """Checks the role or the hook's setting, then reads the body within its limits, then waits for a turn to use a thread.

    All three are declared by `roles.route` or `roles.public_route`. A body, if the route declares its model, is a JSON object.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler after the checks."""
        handle = super().get_route_handler()
        declared: dict[str, Any] = self.openapi_extra or {}
        least, enabled_by, max_body = declared[LEAST_ROLE], declared.get(ENABLED_BY), declared[MAX_BODY]
        is_async = iscoroutinefunction(self.endpoint)

        async def handle_checked(request: Request) -> Response:
            limits: RequestLimits = request.app.state.limits
            if enabled_by and not getattr(request.app.state.hooks, enabled_by):
                raise ApiError(404, "This hook is not enabled")
            if least != NOBODY:
                async with limits.turn():
                    await run_in_threadpool(require_role, request, Role(least))
            if is_async:
                return await handle(_CheckedRequest(request, b""))
            if request.method in METHODS_WITHOUT_BODY:
                async with limits.turn():
                    return await handle(_CheckedRequest(request, b""))
            async with limits.body(request, max_body, public=least == NOBODY) as body, limits.turn():
                return await handle(_CheckedRequest(request, body))

        return handle_checked


def checked_router(**options: Any) -> APIRouter:
    """A router whose routes are checked."""
    return APIRouter(route_class=CheckedRoute, **options)


async def raw_body(request: Request) -> bytes:
    """The body's exact bytes, which signatures cover."""
    return await request.body()


Body = Annotated[bytes, Depends(raw_body)]


class _CheckedRequest(Request):
    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body

    async def json(self) -> dict[str, Any]:
        check_media_type(self)  # FastAPI would also parse application/merge-patch+json
        check_values(self._body, MAX_OBJECT_VALUES)
        try:
            return _OBJECT_ADAPTER.validate_json(self._body)
        except ValidationError as exc:
            raise invalid_request(exc) from None
