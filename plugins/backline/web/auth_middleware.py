"""The outermost layer of the API: request ids, login, cross-site protection, size limits, and a problem for every error."""

from __future__ import annotations

import logging
import re
import uuid
from urllib.parse import urlsplit

import structlog
from airflow.api_fastapi.core_api.security import bearer_scheme, get_user
from airflow.configuration import conf
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backline.outbox.delivery import describe_exception
from backline.web.problems import UNEXPECTED_ERROR_DETAIL, ApiError, problem_response
from backline.web.roles import is_public
from backline.web.urls import route_path

log = logging.getLogger(__name__)

REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""A valid X-Request-ID; any other is replaced, so that it cannot break log lines."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_PUBLIC_BODY_BYTES = 2 * 2**20
"""Body size limit of requests without a login: more than a provider sends at once."""


class AuthMiddleware:
    """Refuses every path but the public ones without a login, whether it exists or not."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] == "websocket":  # none is served, and the login below is for HTTP only
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        given_id = request.headers.get("x-request-id", "")
        request_id = given_id if REQUEST_ID_PATTERN.fullmatch(given_id) else uuid.uuid4().hex
        request.state.request_id = request_id
        started = False

        async def send_with_request_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                limit = self._max_body_bytes
                if is_public(route_path(request)):
                    limit = min(limit, MAX_PUBLIC_BODY_BYTES)
                else:
                    await _authenticate(request)
                await self._app(scope, _limit_body(request, receive, limit), send_with_request_id)
            except HTTPException as exc:
                await problem_response(request, exc)(scope, receive, send_with_request_id)
            except Exception as exc:  # noqa: BLE001 - the caller gets a problem for any error
                # Only the error's class and place are logged: its text could quote the request.
                log.error("%s %s: unexpected %s", request.method, request.url.path, describe_exception(exc))  # noqa: TRY400
                if not started:
                    error = ApiError(500, UNEXPECTED_ERROR_DETAIL)
                    await problem_response(request, error)(scope, receive, send_with_request_id)


def _limit_body(request: Request, receive: Receive, limit: int) -> Receive:
    """Refuse a longer body by its declared length, and while it is read: a request need not declare its length."""
    too_large = ApiError(
        413, f"The limit is {limit / 2**20:g} MiB a request (http.max_body_mib); split the messages up"
    )
    content_length = request.headers.get("content-length", "")
    if content_length.isdecimal() and int(content_length) > limit:
        raise too_large
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large
        return message

    return counted


async def _authenticate(request: Request) -> None:
    """Identify the user. A browser's login cookie allows changes only from a page of the same origin."""
    credentials = await bearer_scheme(request)
    try:
        request.state.user = await get_user(request, None, credentials)
    except HTTPException:
        raise ApiError(
            401, 'Log in to Airflow, or send "Authorization: Bearer" with a token of POST /auth/token',
            headers={"WWW-Authenticate": "Bearer"},
        ) from None  # fmt: skip
    if credentials is None and request.method not in SAFE_METHODS and not _same_origin(request):
        raise ApiError(403, "A login cookie allows changes only from Airflow's own pages; programs send a Bearer token")


def _same_origin(request: Request) -> bool:
    """Whether the browser reports the same origin: Fetch Metadata, else Origin (OWASP's CSRF prevention cheat sheet)."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(request.headers.get("origin", ""))
    own_hosts = {request.headers.get("host", ""), urlsplit(conf.get("api", "base_url", fallback="")).netloc}
    return origin.scheme in {"http", "https"} and origin.netloc in own_hosts - {""}
