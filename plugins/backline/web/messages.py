"""Messages over HTTP: send, read, search, cancel, retry, replay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, cast

from fastapi import Header, Request, Response
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from backline.audit_trail import record
from backline.channels.raw_json import raw_member, raw_members
from backline.encryption import encryptor
from backline.errors import InvalidInput
from backline.outbox import queries, submission
from backline.outbox.timeline import TimelineEvent
from backline.web import schemas
from backline.web.bodies import Body, checked_router
from backline.web.database import Database
from backline.web.limits import MAX_BATCH_VALUES, check_values
from backline.web.problems import ApiError, check_media_type, invalid_request
from backline.web.roles import LARGE_BODY_BYTES, Role, actor, key_scope, route
from backline.web.schemas import BATCH_LIMIT, Id, Text
from backline.web.urls import api_url, next_url, ui_url

router = checked_router(prefix="/api/v1", tags=["messages"])

_MESSAGES_ADAPTER = TypeAdapter(list[schemas.NewMessage])
_MESSAGE_SCHEMA = {"$ref": "#/components/schemas/NewMessage"}
_BATCH_SCHEMA = {"type": "array", "items": _MESSAGE_SCHEMA, "minItems": 1, "maxItems": BATCH_LIMIT}
_BODY = {"required": True, "content": {"application/json": {"schema": {"oneOf": [_MESSAGE_SCHEMA, _BATCH_SCHEMA]}}}}

IdempotencyKey = Annotated[
    str | None,
    Header(
        description="Repeating your key with the same content returns the first ids; kept 30 days.",
        json_schema_extra={"minLength": 1, "maxLength": submission.MAX_IDEMPOTENCY_KEY_LENGTH, "pattern": "^[!-~]+$"},
    ),
]


@router.post(
    "/messages",
    **route(
        Role.OP,
        f"Send one message or up to {BATCH_LIMIT:,}",
        schemas.Accepted,
        status=202,
        max_body_bytes=LARGE_BODY_BYTES,
        requestBody=_BODY,
    ),
)
def send(request: Request, database: Database, body: Body, idempotency_key: IdempotencyKey = None) -> Response:
    """All or none: if a message is invalid, none is accepted, and the errors have the index of each invalid one."""
    check_media_type(request)
    wanted, is_batch = _parse_messages(body, request.state.request_id)
    key = None if idempotency_key is None else _check_key(idempotency_key)
    try:
        checked = submission.validate_batch(wanted, encryptor())
        if not is_batch:
            checked = [replace(checked[0], key=key, key_scope=key_scope(request))]
        with database.transaction() as connection:
            ids = submission.enqueue_batch(connection, checked, key if is_batch else None, key_scope(request))
            after = {
                "count": len(ids), "types": sorted({one.type for one in checked}), "first": min(ids), "last": max(ids)
            }  # fmt: skip
            target = "messages" if is_batch else f"message/{ids[0]}"
            record(connection, actor(request), "message.send", target, after=after)
    except submission.BatchValidationError as exc:
        if is_batch:
            raise
        raise exc.problems[0][1] from None
    urls = [
        api_url(request, f"{'groups' if one.is_group else 'messages'}/{message_id}")
        for one, message_id in zip(checked, ids, strict=True)
    ]
    return _accepted_response(request, ids, urls)


@router.get("/messages", **route(Role.VIEWER, "Search messages, newest first", schemas.MessageList))
def search(
    request: Request,
    database: Database,
    recipient: Text = None,
    type: Text = None,  # noqa: A002 - the parameter's name
    state: schemas.State | None = None,
    lane: Text = None,
    request_id: Text = None,
    since: schemas.Timestamp | None = None,
    until: schemas.Timestamp | None = None,
    limit: schemas.Limit = 50,
    cursor: schemas.Cursor = None,
) -> dict[str, Any]:
    """By recipient (anywhere in the address, case-insensitive), type, state, lane, request and time of creation.

    Each request scans at most 500,000 messages, so a page may be short or empty and still have a `next`: follow it.
    """
    filters = queries.MessageFilters(recipient, type, state, lane, request_id, since, until)
    timeout = request.app.state.config.search_timeout_seconds
    with database.transaction() as connection:
        found = queries.search_messages(connection, filters, cursor, limit, timeout)
    return {"messages": _summaries(request, found.messages), "next": next_url(request, found.next_cursor)}


@router.get("/messages/{id}", **route(Role.VIEWER, "One message with its timeline", schemas.Message))
def message(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002 - the path's name
    """Also explains in one sentence why it was or was not sent. Secret fields are hidden."""
    with database.transaction() as connection:
        found = queries.get_message(connection, id)
    if found is None:
        raise ApiError(404, f"There is no message {id}: it never existed, was pruned, or it is the id of a group")
    timeline = [_timeline_event(request, event) for event in found.timeline]
    return asdict(found.message) | {"payload": found.payload, "why": found.explanation, "timeline": timeline}


@router.get("/groups/{id}", **route(Role.VIEWER, "The messages of a group", schemas.Group))
def group(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002 - the path's name
    """One per channel, of a message type with several channels."""
    with database.transaction() as connection:
        found = queries.get_group(connection, id)
    if not found:
        raise ApiError(404, f"There is no group {id}: it never existed, or its messages were pruned")
    return {"id": id, "messages": _summaries(request, found)}


@router.post("/messages/{id}/cancel", **route(Role.OP, "Cancel a message", schemas.Message))
def cancel(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002 - the path's name
    """At once if it is not leased, else the dispatcher that leases it is asked to; 409 if it is final otherwise."""
    with database.transaction() as connection:
        submission.cancel(connection, id, actor(request))
    return message(request, database, id)


@router.post("/messages/{id}/retry", **route(Role.OP, "Retry a dead message", schemas.Message))
def retry(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002 - the path's name
    """Under its own id, with all its type's attempts; 409 if it is not dead, has expired or had secret fields."""
    with database.transaction() as connection:
        submission.retry(connection, id, actor(request))
    return message(request, database, id)


@router.post(
    "/messages/{id}/replay",
    **route(
        Role.OP,
        "Send a final message again, edited or not",
        schemas.Accepted,
        status=202,
        max_body_bytes=LARGE_BODY_BYTES,
    ),
)
def replay(
    request: Request,
    database: Database,
    id: Id,  # noqa: A002 - the path's name
    given: schemas.Replay = schemas.Replay(),  # noqa: B008 - FastAPI copies it
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """As a new message whose `replay_of` is this one; 409 if this one is not final."""
    key = None if idempotency_key is None else _check_key(idempotency_key)
    with database.transaction() as connection:
        new, grouped = submission.replay(
            connection, id, key, actor(request), encryptor(), key_scope=key_scope(request), recipient=given.to,
            payload=given.payload,
        )  # fmt: skip
    return _accepted_response(request, [new], [api_url(request, f"{'groups' if grouped else 'messages'}/{new}")])


def _parse_messages(body: bytes, request_id: str) -> tuple[list[submission.NewMessage], bool]:
    """The messages of a body, and whether it is a list. Messages without a request id get this one.

    Not by FastAPI: pydantic is faster if it parses and validates the JSON in one step.
    """
    check_values(body, MAX_BATCH_VALUES)
    is_batch = body.lstrip()[:1] == b"["
    try:
        messages = _MESSAGES_ADAPTER.validate_json(body) if is_batch else [schemas.NewMessage.model_validate_json(body)]
    except ValidationError as exc:
        raise invalid_request(exc, skip=int(is_batch)) from None
    if not 1 <= len(messages) <= BATCH_LIMIT:
        raise ApiError(422, f"Send 1 to {BATCH_LIMIT:,} messages in a request, not {len(messages):,}")
    payloads = raw_members(body, "payload") if is_batch else [raw_member(body, "payload")]
    return [
        submission.NewMessage(
            one.type, cast("str", one.to), one.payload, due_at=one.due_at, expires_at=one.expires_at, priority=one.priority,
            lane=one.lane, request_id=one.request_id or request_id,
            payload_json=payload.decode() or None,
        )
        for one, payload in zip(messages, payloads, strict=True)
    ], is_batch  # fmt: skip


def _accepted_response(request: Request, ids: Sequence[int], urls: Sequence[str]) -> Response:
    request_id = request.state.request_id
    accepted = [{"id": message_id, "url": url} for message_id, url in zip(ids, urls, strict=True)]
    content = to_json({"messages": accepted, "request_id": request_id})
    location = urls[0] if len(urls) == 1 else api_url(request, "messages", request_id=request_id)
    return Response(content, 202, {"Location": location}, "application/json")


def _summaries(request: Request, messages: Sequence[queries.MessageSummary]) -> list[dict[str, Any]]:
    return [{**asdict(message), "url": api_url(request, f"messages/{message.id}")} for message in messages]


def _timeline_event(request: Request, event: TimelineEvent) -> dict[str, Any]:
    shown = asdict(event)
    if event.attempt is not None:
        shown["attempt"]["log"] = ui_url(request, event.attempt.log_path())
    return shown


def _check_key(key: str) -> str:
    """A client's idempotency key; InvalidInput unless it is 1 to 255 visible ASCII characters."""
    if not re.fullmatch(rf"[!-~]{{1,{submission.MAX_IDEMPOTENCY_KEY_LENGTH}}}", key):
        raise InvalidInput(
            submission.IDEMPOTENCY_KEY_HEADER,
            f"must be 1 to {submission.MAX_IDEMPOTENCY_KEY_LENGTH} visible ASCII characters, such as a UUID",
        )
    return key
