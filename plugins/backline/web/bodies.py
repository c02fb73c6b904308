"""Request bodies. The API's JSON is parsed by pydantic: Python's parser accepts lone surrogates, UTF-16 and deeper nesting."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from backline.web.problems import check_media_type, invalid_request

_OBJECT_ADAPTER = TypeAdapter(dict[str, Any])


async def raw_body(request: Request) -> bytes:
    """The body's exact bytes, which signatures cover."""
    return await request.body()


Body = Annotated[bytes, Depends(raw_body)]


class JsonRoute(APIRoute):
    """A route whose body, if it declares one, is a JSON object."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler with another parser."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


class _JsonRequest(Request):
    async def json(self) -> dict[str, Any]:
        check_media_type(self)  # FastAPI would also parse application/merge-patch+json
        try:
            return _OBJECT_ADAPTER.validate_json(await self.body())
        except ValidationError as exc:
            raise invalid_request(exc) from None
