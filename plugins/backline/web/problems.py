"""Every error as a problem (RFC 9457, application/problem+json): what is wrong, where, and how to fix it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from backline.delivery_events.events import InvalidSignature
from backline.errors import BacklineError, InvalidInput, PermanentError, RetryableError
from backline.outbox.submission import BatchValidationError, MessageNotFound
from backline.preferences.repository import SuppressionNotFound
from backline.validation_errors import Location, field_path, field_problems
from backline.web.urls import route_path
from backline.webhooks.endpoints import EndpointNotFound

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
UNEXPECTED_ERROR_DETAIL = "An unexpected error; the api-server's log has it under this request_id."


class FieldError(BaseModel):
    """One wrong field."""

    field: str = Field(description="Its path from the body's root, or the name of a query parameter or header.")
    detail: str = Field(description="What is wrong with it, and how to fix it.")
    index: int | None = Field(None, description="The index of the message in a batch, from 0.")


class Problem(BaseModel):
    """A problem of RFC 9457."""

    type: str = Field(description="urn:backline:problem: and a name; docs/api.md lists them.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path of the request.")
    request_id: str
    errors: list[FieldError] | None = None


class ProblemType(NamedTuple):
    """One kind of problem."""

    name: str
    status: int
    title: str


PROBLEM_TYPES = {
    kind.status: kind
    for kind in (
        ProblemType("malformed", 400, "The request cannot be parsed"),
        ProblemType("unauthenticated", 401, "Authentication required"),
        ProblemType("forbidden", 403, "Forbidden"),
        ProblemType("not-found", 404, "Not found"),
        ProblemType("wrong-method", 405, "Method not allowed"),
        ProblemType("conflict", 409, "The current state does not allow this"),
        ProblemType("too-large", 413, "The request is too large"),
        ProblemType("wrong-media-type", 415, "The body must be JSON"),
        ProblemType("invalid", 422, "Invalid request"),
        ProblemType("unexpected", 500, "Internal error"),
        ProblemType("unavailable", 503, "Temporarily unavailable"),
    )
}


class ApiError(HTTPException):
    """An error response; raise it anywhere below the routes."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.errors = errors


def unknown_field(_: Location) -> str:
    """The text for an unknown field of a request."""
    return "is not a known field; remove it, or move it into payload if it is a field of the message's type"


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
    """Turn every error of the app's routes into a problem."""
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(RequestValidationError, _handle_parameter_errors)
    app.add_exception_handler(BacklineError, _handle_backline_error)


async def _handle_http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101 - registered for it
    detail, headers = str(exc.detail), exc.headers
    if exc.status_code == HTTPStatus.NOT_FOUND and detail == HTTPStatus.NOT_FOUND.phrase:
        openapi = f"{request.scope.get('root_path', '')}/openapi.json"
        detail = f"{request.url.path} does not exist; {openapi} lists all paths"
    elif exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": _allowed_methods(request)}
        detail = f"{request.method} is not allowed here; use {headers['Allow']}"
    errors = exc.errors if isinstance(exc, ApiError) else None
    return problem_response(request, exc.status_code, detail, errors, headers)


async def _handle_parameter_errors(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - registered for it
    problems = field_problems(exc.errors(), unknown_field=unknown_field)
    errors = [FieldError(field=field_path(problem.location[1:]), detail=problem.text) for problem in problems]
    return problem_response(request, 422, f"{errors[0].field}: {errors[0].detail}", errors)


async def _handle_backline_error(request: Request, exc: Exception) -> Response:
    if isinstance(exc, BatchValidationError):
        errors = [FieldError(field=error.field, detail=error.problem, index=index) for index, error in exc.problems]
        index, first = exc.problems[0]
        return problem_response(request, 422, f"no message was accepted; message {index}: {first}", errors)
    if isinstance(exc, InvalidInput):
        return problem_response(request, 422, str(exc), [FieldError(field=exc.field, detail=exc.problem)])
    if isinstance(exc, MessageNotFound | SuppressionNotFound | EndpointNotFound):
        return problem_response(request, 404, str(exc))
    if isinstance(exc, PermanentError) and not isinstance(exc, InvalidSignature):
        return problem_response(request, 409, str(exc))
    if isinstance(exc, RetryableError | InvalidSignature):
        log.warning("%s %s: %s", request.method, request.url.path, exc)
    else:
        log.error("%s %s: %s", request.method, request.url.path, exc)
    if isinstance(exc, RetryableError):
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return problem_response(
            request, 503, "The database is busy or unavailable; repeat the request later.", headers=headers
        )
    if isinstance(exc, InvalidSignature):
        return problem_response(request, 403, "The signature is not valid; the api-server's log has the reason.")
    return problem_response(request, 500, UNEXPECTED_ERROR_DETAIL)


def _allowed_methods(request: Request) -> str:
    """The methods of all routes of the path; the framework lists only those of the first one."""
    allowed: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.path_regex.match(route_path(request)):
            allowed |= route.methods or set()
    return ", ".join(sorted(allowed))
