"""Parses JSON request bodies; the error for an invalid body lists every wrong field."""

from __future__ import annotations

from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request
from pydantic import BaseModel, TypeAdapter, ValidationError

from backline.outbox import submission
from backline.validation_errors import field_path, field_problems
from backline.web.problems import ApiError, FieldError, unknown_field
from backline.web.schemas import BATCH_LIMIT, NewMessage

MAX_LISTED_ERRORS = 50
_MESSAGES_ADAPTER = TypeAdapter(list[NewMessage])
Model = TypeVar("Model", bound=BaseModel)


async def json_body(request: Request) -> bytes:
    """The body's bytes; 415 unless its content type is JSON."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(415, "Send the body as JSON, with Content-Type: application/json")
    return await request.body()


async def optional_json_body(request: Request) -> bytes:
    """As `json_body`, but an empty body is an empty object."""
    return await json_body(request) if await request.body() else b"{}"


Body = Annotated[bytes, Depends(json_body)]
OptionalBody = Annotated[bytes, Depends(optional_json_body)]


def parse_messages(body: bytes, request_id: str) -> tuple[list[submission.NewMessage], bool]:
    """The messages of a body, and whether it is a list. Messages without a request id get this one."""
    is_batch = body.lstrip()[:1] == b"["
    try:
        messages = _MESSAGES_ADAPTER.validate_json(body) if is_batch else [NewMessage.model_validate_json(body)]
    except ValidationError as exc:
        raise _to_api_error(exc, is_batch=is_batch) from None
    if not 1 <= len(messages) <= BATCH_LIMIT:
        raise ApiError(422, f"Send 1 to {BATCH_LIMIT:,} messages in a request, not {len(messages):,}")
    return [
        submission.NewMessage(
            one.type, cast("str", one.to), one.payload, due_at=one.due_at, expires_at=one.expires_at, priority=one.priority,
            lane=one.lane, request_id=one.request_id or request_id,
        )
        for one in messages
    ], is_batch  # fmt: skip


def parse_body(model: type[Model], body: bytes) -> Model:
    """Parse a body; ApiError lists each wrong field."""
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        raise _to_api_error(exc) from None


def _to_api_error(exc: ValidationError, *, is_batch: bool = False) -> ApiError:
    first = exc.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {first['ctx']['error']}")
    errors = []
    for location, text in field_problems(exc, unknown_field=unknown_field)[:MAX_LISTED_ERRORS]:
        if is_batch:
            errors.append(FieldError(field=field_path(location[1:]), detail=text, index=int(location[0])))
        else:
            errors.append(FieldError(field=field_path(location), detail=text))
    where = "" if errors[0].index is None else f"no message was accepted; message {errors[0].index}: "
    return ApiError(422, f"{where}{errors[0].field}: {errors[0].detail}", errors)
