"""Request bodies: read as JSON, with each wrong field told."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import TypeAdapter, ValidationError

from backline.messages.problems import dotted
from backline.outbox.acts import Edits
from backline.outbox.intake import Wanted
from backline.web.problems import Refused, Wrong, explain
from backline.web.schemas import NewMessage, Replay

AT_ONCE = 1_000
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
                        "maxItems": AT_ONCE,
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
WISH: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Wish"}}},
}

_ONE = TypeAdapter(NewMessage)
_MANY = TypeAdapter(list[NewMessage])
_REPLAY = TypeAdapter(Replay)
T = TypeVar("T")


async def json_body(request: Request) -> bytes:
    """The body's bytes; 415 unless it says that it is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "Send the body as JSON, with Content-Type: application/json")
    return await request.body()


async def optional_json_body(request: Request) -> bytes:
    """As `json_body`, and an empty one is an empty object."""
    return await json_body(request) if await request.body() else b"{}"


Body = Annotated[bytes, Depends(json_body)]
OptionalBody = Annotated[bytes, Depends(optional_json_body)]


def read_messages(body: bytes, request_id: str) -> tuple[list[Wanted], bool]:
    """The messages of a body, and whether it is a list; `request_id` is that of those that have none."""
    several = body.lstrip()[:1] == b"["
    given = _read(_MANY, body, several=True) if several else [_read(_ONE, body)]
    if not 1 <= len(given) <= AT_ONCE:
        raise Refused(422, f"Give 1 to {AT_ONCE:,} messages a request, not {len(given):,}")
    return [
        Wanted(
            one.type, one.to, one.payload, one.due_at, one.expires_at, one.priority, one.lane,
            one.request_id or request_id,
        )
        for one in given
    ], several  # fmt: skip


def read_replay(body: bytes) -> Edits:
    """How the message that is sent again differs."""
    given = _read(_REPLAY, body)
    return Edits(given.to, given.payload)


def read(model: type[T], body: bytes) -> T:
    """A body as the model has it; Refused tells each wrong field."""
    return _read(TypeAdapter(model), body)


def _read(adapter: TypeAdapter[T], body: bytes, *, several: bool = False) -> T:
    try:
        return adapter.validate_json(body)
    except ValidationError as exc:
        found = exc.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        raise Refused(400, f"The body is not valid JSON: {found[0]['ctx']['error']}")
    errors = []
    for error in found[:50]:
        location = error["loc"][1:] if several else error["loc"]
        index = error["loc"][0] if several and error["loc"] else None
        errors.append(
            Wrong(field=dotted(location), detail=explain(error), index=index if isinstance(index, int) else None)
        )
    first = errors[0]
    where = "" if first.index is None else f"nothing was taken; message {first.index}: "
    raise Refused(422, f"{where}{first.field}: {first.detail}", errors)
