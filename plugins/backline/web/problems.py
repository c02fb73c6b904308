"""Every error as a problem (RFC 9457, application/problem+json): what is wrong, where, and how to fix it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from backline.db.connect import LOCK_NOT_AVAILABLE
from backline.delivery_events.events import InvalidSignature
from backline.errors import BacklineError, InvalidInput, PermanentError, RetryableError
from backline.outbox.submission import BatchValidationError, MessageNotFound
from backline.preferences.repository import SuppressionNotFound
from backline.validation_errors import MAX_COUNTED_ERRORS, Location, field_path, field_problems, shorten
from backline.web.urls import route_path
from backline.webhooks.endpoints import EndpointNotFound

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
MAX_LISTED_ERRORS = 50
MAX_DETAIL_LENGTH = 1000
"""Characters of each text of a problem; longer ones, which quote the request, are cut."""
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


PROBLEM_TYPES = {
    400: ("malformed", "The request cannot be parsed"),
    401: ("unauthenticated", "Authentication required"),
    403: ("forbidden", "Forbidden"),
    404: ("not-found", "Not found"),
    405: ("wrong-method", "Method not allowed"),
    408: ("too-slow", "The request took too long to arrive"),
    409: ("conflict", "The current state does not allow this"),
    413: ("too-large", "The request is too large"),
    415: ("wrong-media-type", "The body must be JSON"),
    422: ("invalid", "Invalid request"),
    500: ("unexpected", "Internal error"),
    503: ("unavailable", "Temporarily unavailable"),
}
"""The name and title of each status."""
_LOG_LEVELS = {403: logging.WARNING, 500: logging.ERROR, 503: logging.WARNING}
"""For errors of Backline whose text is only logged."""


class ApiError(HTTPException):
    """An error response; raise it anywhere below the routes."""

    def __init__(
        self, status: int, detail: str, errors: list[FieldError] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers)
        self.errors = errors


def unknown_field(_: Location) -> str:
    """The text for an unknown field of a request."""
    return "is not a known field; remove it, or move it into payload if it is a field of the message's type"


def check_media_type(request: Request) -> None:
    """415 unless the body's content type is JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Send the body as JSON, with Content-Type: application/json")


def invalid_request(exc: ValidationError | RequestValidationError, *, skip: int = 0) -> ApiError:
    """The error for a body that is not valid JSON, or has wrong fields; `skip` parts of each location precede the field."""
    if (
        isinstance(exc, ValidationError) and exc.error_count() > MAX_COUNTED_ERRORS
    ):  # listing them takes a kilobyte each
        return ApiError(422, f"The body has {exc.error_count():,} wrong fields: check its form")
    details = exc.errors()
    if details[0]["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {details[0]['ctx']['error']}")
    errors = []
    for location, text in field_problems(details, unknown_field=unknown_field)[:MAX_LISTED_ERRORS]:
        index = location[0] if skip and isinstance(location[0], int) else None
        errors.append(FieldError(field=field_path(location[skip:]), detail=text, index=index))
    where = "" if errors[0].index is None else f"no message was accepted; message {errors[0].index}: "
    return ApiError(422, f"{where}{errors[0].field}: {errors[0].detail}", errors)


def problem_response(request: Request, error: HTTPException) -> Response:
    """An error as a response."""
    status = error.status_code
    name, title = PROBLEM_TYPES.get(status) or ("other", HTTPStatus(status).phrase)
    problem = Problem(
        type=f"urn:backline:problem:{name}", title=title, status=status, detail=_cut(str(error.detail)),
        instance=_cut(request.url.path), request_id=request.state.request_id,
        errors=_cut_errors(error.errors) if isinstance(error, ApiError) and error.errors else None,
    )  # fmt: skip
    return Response(problem.model_dump_json(exclude_none=True), status, error.headers, MEDIA_TYPE)


def _cut(text: str) -> str:
    return shorten(text, MAX_DETAIL_LENGTH)


def _cut_errors(errors: list[FieldError]) -> list[FieldError]:
    return [
        FieldError(field=_cut(one.field), detail=_cut(one.detail), index=one.index)
        for one in errors[:MAX_LISTED_ERRORS]
    ]


def install_handlers(app: FastAPI) -> None:
    """Turn every error of the app's routes into a problem."""
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(RequestValidationError, _handle_invalid_request)
    app.add_exception_handler(BacklineError, _handle_backline_error)


async def _handle_http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101 - registered for it
    if exc.status_code == HTTPStatus.NOT_FOUND and exc.detail == HTTPStatus.NOT_FOUND.phrase:
        openapi = f"{request.scope.get('root_path', '')}/openapi.json"
        exc = ApiError(404, f"{request.url.path} does not exist; {openapi} lists all paths")
    elif exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed_methods(request)
        exc = ApiError(405, f"{request.method} is not allowed here; use {allowed}", headers={"Allow": allowed})
    return problem_response(request, exc)


async def _handle_invalid_request(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - registered for it
    if any(error["loc"] == ("body",) for error in exc.errors()):  # FastAPI did not parse it, or it is empty
        check_media_type(request)
        raise ApiError(400, "The body is not valid JSON: it is empty")
    return problem_response(request, invalid_request(exc, skip=1))


async def _handle_backline_error(request: Request, exc: Exception) -> Response:
    error = _to_api_error(exc)
    if level := _LOG_LEVELS.get(error.status_code):
        log.log(level, "%s %s: %s", request.method, request.url.path, exc)
    return problem_response(request, error)


def _to_api_error(exc: Exception) -> ApiError:
    if isinstance(exc, BatchValidationError):
        errors = [FieldError(field=error.field, detail=error.problem, index=index) for index, error in exc.problems]
        index, first = exc.problems[0]
        return ApiError(422, f"no message was accepted; message {index}: {first}", errors)
    if isinstance(exc, InvalidInput):
        return ApiError(422, str(exc), [FieldError(field=exc.field, detail=exc.problem)])
    if isinstance(exc, MessageNotFound | SuppressionNotFound | EndpointNotFound):
        return ApiError(404, str(exc))
    if isinstance(exc, InvalidSignature):
        return ApiError(403, "The signature is not valid; the api-server's log has the reason.")
    if isinstance(exc, PermanentError):
        return ApiError(409, str(exc))
    if isinstance(exc, RetryableError):
        detail = "The database is busy or unavailable; repeat the request later."
        if exc.code == LOCK_NOT_AVAILABLE:
            detail = "Another transaction holds what this request needs, such as its key; repeat the request later."
        return ApiError(503, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
    return ApiError(500, UNEXPECTED_ERROR_DETAIL)


def _allowed_methods(request: Request) -> str:
    """The methods of all routes of the path; the framework lists only those of the first one."""
    allowed: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.path_regex.match(route_path(request)):
            allowed |= route.methods or set()
    return ", ".join(sorted(allowed))
