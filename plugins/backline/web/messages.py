"""Messages over HTTP: send one or many, look at one, a group or a search, cancel, retry, send again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from psycopg.rows import DictRow
from pydantic_core import to_json

from backline.audit_trail import record
from backline.outbox import queries, submission
from backline.outbox.timeline import TimelineEvent
from backline.web import schemas
from backline.web.bodies import BATCH_LIMIT, NEW_MESSAGES, REPLAY, Body, OptionalBody, parse_messages, parse_replay
from backline.web.database import Connections, connections, encryptor
from backline.web.problems import ApiError
from backline.web.roles import Role, actor, require_role
from backline.web.urls import api_url, next_url, ui_url

router = APIRouter(prefix="/api/v1", tags=["messages"])

Id = Annotated[int, Path(ge=1, le=schemas.MAX_ID)]
Database = Annotated[Connections, Depends(connections)]
Text = Annotated[str | None, Query(max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        description="The same key with the same content gives the first answer's ids; kept 30 days.",
        json_schema_extra={"minLength": 1, "maxLength": submission.MAX_IDEMPOTENCY_KEY_LENGTH, "pattern": "^[!-~]+$"},
    ),
]


@router.post(
    "/messages", status_code=202, response_model=schemas.Accepted, summary=f"Send one message or up to {BATCH_LIMIT:,}",
    **require_role(Role.OP, requestBody=NEW_MESSAGES),
)  # fmt: skip
def send(request: Request, database: Database, body: Body, idempotency_key: IdempotencyKey = None) -> Response:
    """All or none: each wrong message is told with its index, and nothing is taken."""
    wanted, several = parse_messages(body, request.state.request_id)
    keys = None
    if idempotency_key is not None:
        key = submission.check_idempotency_key(idempotency_key)
        keys = [f"{key}/{index}" for index in range(len(wanted))] if several else [key]
    try:
        checked = submission.validate_batch(wanted, encryptor(request))
        with database.transaction() as connection:
            ids = submission.enqueue_batch(connection, checked, keys)
            after = {
                "count": len(ids), "types": sorted({one.type for one in checked}), "first": min(ids), "last": max(ids)
            }  # fmt: skip
            target = "messages" if several else f"message/{ids[0]}"
            record(connection, actor(request), "message.send", target, after=after)
    except submission.BatchValidationError as exc:
        if several:
            raise
        raise exc.problems[0][1] from None
    urls = [
        api_url(request, f"{'groups' if one.is_group else 'messages'}/{message_id}")
        for one, message_id in zip(checked, ids, strict=True)
    ]
    return _accepted_response(request, ids, urls)


@router.get(
    "/messages",
    response_model=schemas.MessageList,
    summary="Search messages, newest first",
    **require_role(Role.VIEWER),
)
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
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[int | None, Query(ge=1, le=schemas.MAX_ID)] = None,
) -> dict[str, Any]:
    """By recipient (anywhere in the address, in any case), type, state, lane, request and time of creation.

    Looks at 500,000 messages a request, so a part may be short, even empty, and yet have a `next`: follow it.
    """
    filters = queries.MessageFilters(recipient, type, state, lane, request_id, since, until)
    patience = request.app.state.config.search_seconds
    with database.transaction() as connection:
        found = queries.search_messages(connection, filters, cursor, limit, patience)
    return {"messages": _summaries(request, found.messages), "next": next_url(request, found.next_cursor)}


@router.get(
    "/messages/{id}",
    response_model=schemas.Message,
    summary="One message with its timeline",
    **require_role(Role.VIEWER),
)
def message(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002 - the path's name
    """And one sentence why it was or was not sent. Secret fields are hidden."""
    with database.transaction() as connection:
        found = queries.get_message(connection, id)
    if found is None:
        raise ApiError(404, f"There is no message {id}: it never was, it was pruned, or it is a group's id")
    facts = asdict(found.message)
    shown = {name: facts[name] for name in schemas.Message.model_fields if name in facts}
    timeline = [_timeline_event(request, event) for event in found.timeline]
    return shown | {"payload": found.payload, "why": found.explanation, "timeline": timeline}


@router.get(
    "/groups/{id}", response_model=schemas.Group, summary="The messages of a group", **require_role(Role.VIEWER)
)
def group(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002 - the path's name
    """One a channel, of a type that goes out over several."""
    with database.transaction() as connection:
        found = queries.get_group(connection, id)
    if not found:
        raise ApiError(404, f"There is no group {id}: it never was, or its messages were pruned")
    return {"id": id, "messages": _summaries(request, found)}


@router.post(
    "/messages/{id}/cancel", response_model=schemas.Message, summary="Take a message back", **require_role(Role.OP)
)
def cancel(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002 - the path's name
    """At once if nobody holds it, else its holder is asked; 409 if it has ended otherwise."""
    with database.transaction() as connection:
        submission.cancel(connection, id, actor(request))
    return message(request, database, id)


@router.post(
    "/messages/{id}/retry", response_model=schemas.Message, summary="Try a dead message again", **require_role(Role.OP)
)
def retry(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002 - the path's name
    """Under its own id, with as many tries as its type has; 409 if it is not dead, has expired or had secrets."""
    with database.transaction() as connection:
        submission.retry(connection, id, actor(request))
    return message(request, database, id)


@router.post(
    "/messages/{id}/replay", status_code=202, response_model=schemas.Accepted,
    summary="Send a message that has ended again, edited or not", **require_role(Role.OP, requestBody=REPLAY),
)  # fmt: skip
def replay(
    request: Request,
    database: Database,
    id: Id,  # noqa: A002 - the path's name
    body: OptionalBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """As a new message whose `replay_of` is this one; 409 if this one has not ended."""
    edits = parse_replay(body)
    key = None if idempotency_key is None else submission.check_idempotency_key(idempotency_key)
    with database.transaction() as connection:
        new, grouped = submission.replay(connection, id, edits, key, actor(request), encryptor(request))
    return _accepted_response(request, [new], [api_url(request, f"{'groups' if grouped else 'messages'}/{new}")])


def _accepted_response(request: Request, ids: Sequence[int], urls: Sequence[str]) -> Response:
    request_id = request.state.request_id
    taken = [{"id": message_id, "url": url} for message_id, url in zip(ids, urls, strict=True)]
    answer = to_json({"messages": taken, "request_id": request_id})
    location = urls[0] if len(urls) == 1 else api_url(request, "messages", request_id=request_id)
    return Response(answer, 202, {"Location": location}, "application/json")


def _summaries(request: Request, rows: Sequence[DictRow]) -> list[dict[str, Any]]:
    return [{**row, "url": api_url(request, f"messages/{row['id']}")} for row in rows]


def _timeline_event(request: Request, event: TimelineEvent) -> dict[str, Any]:
    tried = event.attempt
    attempt = None if tried is None else asdict(tried) | {"log": ui_url(request, tried.log_path())}
    return {"at": event.at, "event": event.event, "text": event.text, "attempt": attempt}
