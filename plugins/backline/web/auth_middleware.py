"""What stands before every route: request ids, login, proof of origin, size limits, and an answer whatever happens."""

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
"""A well-formed X-Request-ID; another one is replaced, so that none can break a log line."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_PUBLIC_BODY_BYTES = 2 * 2**20
"""Bytes of a request without login: more than a provider sends at once."""


class AuthMiddleware:
    """The outermost layer. Refuses everything but the public paths without a login, also what does not exist."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        """`body_at_most` bytes, of a request."""
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry."""
        if scope["type"] == "websocket":  # none is served, so none is let by unasked
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        request.state.request_id = request_id = _request_id(request.headers.get("x-request-id"))
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                most = self._max_body_bytes
                if is_public(route_path(request)):
                    most = min(most, MAX_PUBLIC_BODY_BYTES)
                else:
                    await _authenticate(request)
                _check_length(request.headers.get("content-length", ""), most)
                await self._app(scope, _limit_body(receive, most), answer)
            except HTTPException as exc:
                refusal = problem_response(request, exc.status_code, str(exc.detail), headers=exc.headers)
                await refusal(scope, receive, answer)
            except Exception as exc:  # noqa: BLE001 - the caller gets a problem, whatever it was
                # An error's own text could quote the request, so only its kind and place are kept.
                log.error("%s %s: unexpected %s", request.method, request.url.path, describe_exception(exc))  # noqa: TRY400
                if not started:
                    await problem_response(request, 500, UNEXPECTED_ERROR_DETAIL)(scope, receive, answer)


def _check_length(content_length: str, limit: int) -> None:
    if content_length.isdecimal() and int(content_length) > limit:
        raise _too_large(limit)


def _limit_body(receive: Receive, limit: int) -> Receive:
    """The body as it comes, counted: its length need not be told beforehand."""
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"At most {limit / 2**20:g} MiB a request (http.max_body_mib); send the messages in several")


def _request_id(given: str | None) -> str:
    return given if given is not None and REQUEST_ID_PATTERN.fullmatch(given) else uuid.uuid4().hex


async def _authenticate(request: Request) -> None:
    """Find out who asks; a browser's login counts for an act only when one of our own pages asks for it."""
    credentials = await bearer_scheme(request)
    try:
        request.state.user = await get_user(request, None, credentials)
    except HTTPException:
        raise ApiError(
            401, 'Log in to Airflow, or send "Authorization: Bearer" with a token of POST /auth/token',
            headers={"WWW-Authenticate": "Bearer"},
        ) from None  # fmt: skip
    if credentials is None and request.method not in SAFE_METHODS and not _same_origin(request):
        raise ApiError(403, "A browser's login works only from Airflow's own pages; programs send a Bearer token")


def _same_origin(request: Request) -> bool:
    """Whether a browser says that one of our own pages asks.

    Fetch Metadata, or the Origin where a browser does not send it (OWASP's CSRF prevention cheat sheet); none of the
    two is not enough.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(request.headers.get("origin", ""))
    ours = {request.headers.get("host", ""), urlsplit(conf.get("api", "base_url", fallback="")).netloc}
    return origin.scheme in {"http", "https"} and origin.netloc in ours - {""}
