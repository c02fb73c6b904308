"""Every refusal as a problem (RFC 9457, application/problem+json): what is wrong, where, and how to mend it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from backline.delivery_events.events import InvalidSignature
from backline.errors import BacklineError, InvalidInput, PermanentError, RetryableError
from backline.outbox.actions import MessageNotFound
from backline.outbox.submission import BatchValidationError
from backline.preferences.repository import SuppressionNotFound
from backline.validation_errors import field_path
from backline.web.urls import route_path
from backline.webhooks.endpoints import EndpointNotFound

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2


class FieldError(BaseModel):
    """One field that is wrong."""

    field: str = Field(description="Where, from the body's root; a query parameter's or header's name.")
    detail: str = Field(description="What is wrong with it and how to mend it.")
    index: int | None = Field(None, description="Which message of a batch, from 0.")


class Problem(BaseModel):
    """A problem as RFC 9457 has it."""

    type: str = Field(description="urn:backline:problem: and a name; docs/api.md lists them.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path that was asked for.")
    request_id: str
    errors: list[FieldError] | None = None


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of problem."""

    name: str
    status: int
    title: str


PROBLEM_TYPES = {
    kind.status: kind
    for kind in (
        ProblemType("malformed", 400, "The request cannot be read"),
        ProblemType("unauthenticated", 401, "Log in first"),
        ProblemType("forbidden", 403, "This is not allowed to you"),
        ProblemType("not-found", 404, "There is no such thing"),
        ProblemType("wrong-method", 405, "The method is wrong here"),
        ProblemType("conflict", 409, "Its state does not allow that"),
        ProblemType("too-large", 413, "The request is too large"),
        ProblemType("wrong-media-type", 415, "The body must be JSON"),
        ProblemType("invalid", 422, "Something in the request is wrong"),
        ProblemType("unexpected", 500, "Something went wrong here"),
        ProblemType("unavailable", 503, "Try again in a moment"),
    )
}


class ApiError(HTTPException):
    """A refusal; raise it anywhere below the routes."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.errors = errors


def problem_response(
    request: Request,
    status: int,
    detail: str,
    errors: Sequence[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The response of a problem."""
    kind = PROBLEM_TYPES.get(status) or ProblemType("other", status, HTTPStatus(status).phrase)
    problem = Problem(
        type=f"urn:backline:problem:{kind.name}",
        title=kind.title,
        status=status,
        detail=detail,
        instance=request.url.path,
        request_id=request.state.request_id,
        errors=None if errors is None else list(errors),
    )
    return Response(problem.model_dump_json(exclude_none=True), status, headers, MEDIA_TYPE)


def install_handlers(app: FastAPI) -> None:
    """Make every refusal and error of the app's routes a problem."""
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(RequestValidationError, _handle_parameter_errors)
    app.add_exception_handler(BacklineError, _handle_backline_error)


async def _handle_http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101 - what it is registered for
    detail = str(exc.detail)
    if exc.status_code == HTTPStatus.NOT_FOUND and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = f"{request.url.path} does not exist; {_openapi_path(request)} lists what does"
    headers = exc.headers
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": _allowed_methods(request)}
        detail = f"{request.method} is not possible here; use {headers['Allow']}"
    errors = exc.errors if isinstance(exc, ApiError) else None
    return problem_response(request, exc.status_code, detail, errors, headers)


async def _handle_parameter_errors(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - what it is registered for
    errors = [FieldError(field=field_path(error["loc"][1:]), detail=describe_error(error)) for error in exc.errors()]
    return problem_response(request, 422, f"{errors[0].field}: {errors[0].detail}", errors)


async def _handle_backline_error(request: Request, exc: Exception) -> Response:
    if isinstance(exc, BatchValidationError):
        errors = [FieldError(field=one.field, detail=one.problem, index=index) for index, one in exc.problems]
        first = exc.problems[0]
        return problem_response(request, 422, f"nothing was taken; message {first[0]}: {first[1]}", errors)
    if isinstance(exc, InvalidInput):
        return problem_response(request, 422, str(exc), [FieldError(field=exc.field, detail=exc.problem)])
    if isinstance(exc, RetryableError):
        log.warning("%s %s: %s", request.method, request.url.path, exc)
        return problem_response(
            request, 503, "The database is busy or away; the same request may go well in a moment.",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )  # fmt: skip
    if isinstance(exc, InvalidSignature):
        log.warning("%s %s: %s", request.method, request.url.path, exc)
        return problem_response(request, 403, "Not signed as it must be; the api-server's log says why.")
    if isinstance(exc, MessageNotFound | SuppressionNotFound | EndpointNotFound):
        return problem_response(request, 404, str(exc))
    if isinstance(exc, PermanentError):
        return problem_response(request, 409, str(exc))
    log.error("%s %s: %s", request.method, request.url.path, exc)
    return problem_response(request, 500, UNEXPECTED_ERROR_DETAIL)


def describe_error(error: Any) -> str:
    """One of pydantic's errors, in words that say the fix."""
    match error["type"]:
        case "extra_forbidden":
            return "is not known here; remove it, or put it into payload if it is a field of the message's type"
        case "missing":
            return "is required; add it"
        case "value_error":
            return str(error["ctx"]["error"])
    message: str = error["msg"]
    return message[0].lower() + message[1:]


UNEXPECTED_ERROR_DETAIL = "It was written down in the api-server's log under this request_id."


def _allowed_methods(request: Request) -> str:
    """The methods of all routes of that path: the framework names those of the first."""
    allowed: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.path_regex.match(route_path(request)):
            allowed |= route.methods or set()
    return ", ".join(sorted(allowed))


def _openapi_path(request: Request) -> str:
    return f"{request.scope.get('root_path', '')}/openapi.json"
