"""The outermost layer of the API: request ids, login, cross-site protection, and a problem for every error."""

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


class AuthMiddleware:
    """Refuses every path but the public ones without a login, whether it exists or not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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
                if not is_public(route_path(request)):
                    await _authenticate(request)
                await self._app(scope, receive, send_with_request_id)
            except HTTPException as exc:
                await problem_response(request, exc)(scope, receive, send_with_request_id)
            except Exception as exc:  # noqa: BLE001 - the caller gets a problem for any error
                # Only the error's class and place are logged: its text could quote the request.
                log.error("%s %s: unexpected %s", request.method, request.url.path, describe_exception(exc))  # noqa: TRY400
                if not started:
                    error = ApiError(500, UNEXPECTED_ERROR_DETAIL)
                    await problem_response(request, error)(scope, receive, send_with_request_id)


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
