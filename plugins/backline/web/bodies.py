"""Request bodies: read as JSON, with each wrong field told."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import TypeAdapter, ValidationError

from backline.outbox.actions import Edits
from backline.outbox.submission import MessageRequest
from backline.validation_errors import field_path
from backline.web.problems import ApiError, FieldError, describe_error
from backline.web.schemas import NewMessage, Replay

BATCH_LIMIT = 1_000
"""Messages of one request at most."""

NEW_MESSAGES: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "oneOf": [
                    {"$ref": "#/components/schemas/NewMessage"},
                    {
                        "type": "array",
                        "items": {"$ref": "#/components/schemas/NewMessage"},
                        "minItems": 1,
                        "maxItems": BATCH_LIMIT,
                    },
                ]
            }
        }
    },
}
REPLAY: dict[str, Any] = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Replay"}}}}

SUPPRESSION: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewSuppression"}}},
}
PREFERENCE_UPDATE: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Wish"}}},
}

_MESSAGE_ADAPTER = TypeAdapter(NewMessage)
_MESSAGES_ADAPTER = TypeAdapter(list[NewMessage])
_REPLAY_ADAPTER = TypeAdapter(Replay)
T = TypeVar("T")


async def json_body(request: Request) -> bytes:
    """The body's bytes; 415 unless it says that it is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "Send the body as JSON, with Content-Type: application/json")
    return await request.body()


async def optional_json_body(request: Request) -> bytes:
    """As `json_body`, and an empty one is an empty object."""
    return await json_body(request) if await request.body() else b"{}"


Body = Annotated[bytes, Depends(json_body)]
OptionalBody = Annotated[bytes, Depends(optional_json_body)]


def parse_messages(body: bytes, request_id: str) -> tuple[list[MessageRequest], bool]:
    """The messages of a body, and whether it is a list; `request_id` is that of those that have none."""
    several = body.lstrip()[:1] == b"["
    given = _parse(_MESSAGES_ADAPTER, body, several=True) if several else [_parse(_MESSAGE_ADAPTER, body)]
    if not 1 <= len(given) <= BATCH_LIMIT:
        raise ApiError(422, f"Give 1 to {BATCH_LIMIT:,} messages a request, not {len(given):,}")
    return [
        MessageRequest(
            one.type, one.to, one.payload, one.due_at, one.expires_at, one.priority, one.lane,
            one.request_id or request_id,
        )
        for one in given
    ], several  # fmt: skip


def parse_replay(body: bytes) -> Edits:
    """How the message that is sent again differs."""
    given = _parse(_REPLAY_ADAPTER, body)
    return Edits(given.to, given.payload)


def parse_body(model: type[T], body: bytes) -> T:
    """A body as the model has it; Refused tells each wrong field."""
    return _parse(TypeAdapter(model), body)


def _parse(adapter: TypeAdapter[T], body: bytes, *, several: bool = False) -> T:
    try:
        return adapter.validate_json(body)
    except ValidationError as exc:
        found = exc.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        raise ApiError(400, f"The body is not valid JSON: {found[0]['ctx']['error']}")
    errors = []
    for error in found[:50]:
        location = error["loc"][1:] if several else error["loc"]
        index = error["loc"][0] if several and error["loc"] else None
        errors.append(
            FieldError(
                field=field_path(location),
                detail=describe_error(error),
                index=index if isinstance(index, int) else None,
            )
        )
    first = errors[0]
    where = "" if first.index is None else f"nothing was taken; message {first.index}: "
    raise ApiError(422, f"{where}{first.field}: {first.detail}", errors)
