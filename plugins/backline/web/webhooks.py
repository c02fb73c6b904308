"""Webhook endpoints over HTTP: create, list, look at, change, rotate, disable, enable, delete, test, replay."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel

from backline.errors import InvalidInput
from backline.settings import settings
from backline.web import webhook_schemas as schemas
from backline.web.bodies import Body, OptionalBody, parse_body
from backline.web.database import Connections, connections, encryptor
from backline.web.roles import Role, actor, require_role
from backline.web.urls import api_url
from backline.webhooks import endpoints, events
from backline.webhooks.settings import WebhookSettings

router = APIRouter(prefix="/api/v1/webhooks/endpoints", tags=["webhooks"])

Id = Annotated[str, Path(pattern=r"^ep_[0-9]{1,18}$", examples=["ep_1"])]
Database = Annotated[Connections, Depends(connections)]


def _request_body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


@router.post(
    "", status_code=201, response_model=schemas.EndpointWithSecret, summary="Add an endpoint",
    **require_role(Role.ADMIN, **_request_body(schemas.NewEndpoint)),
)  # fmt: skip
def create(request: Request, response: Response, database: Database, body: Body) -> dict[str, Any]:
    """The answer is the only place where its secret is ever shown."""
    given = parse_body(schemas.NewEndpoint, body)
    with database.transaction() as connection:
        made = endpoints.create(
            connection, settings().section(WebhookSettings), encryptor(request), actor(request), url=given.url,
            event_types=given.event_types, description=given.description, scheme=given.scheme,
        )  # fmt: skip
    response.headers["Location"] = api_url(request, f"webhooks/endpoints/{made.endpoint.id}")
    return _with_secret(made)


@router.get("", response_model=schemas.EndpointList, summary="All endpoints, oldest first", **require_role(Role.VIEWER))
def list_endpoints(database: Database) -> dict[str, Any]:
    """With what each has been like lately; never with a secret."""
    with database.transaction() as connection:
        found = endpoints.list_endpoints(connection)
    return {"endpoints": [asdict(one) for one in found]}


@router.get("/{id}", response_model=schemas.Endpoint, summary="One endpoint", **require_role(Role.VIEWER))
def get_endpoint(database: Database, id: Id) -> dict[str, Any]:  # noqa: A002 - the path's name
    """With the public keys of its v1a secrets."""
    with database.transaction() as connection:
        return asdict(endpoints.get_endpoint(connection, id))


@router.patch(
    "/{id}", response_model=schemas.Endpoint, summary="Change an endpoint",
    **require_role(Role.ADMIN, **_request_body(schemas.EndpointUpdate)),
)  # fmt: skip
def update(request: Request, database: Database, id: Id, body: Body) -> dict[str, Any]:  # noqa: A002
    """What is left out stays; what waits goes to the new URL."""
    given = parse_body(schemas.EndpointUpdate, body)
    with database.transaction() as connection:
        found = endpoints.update(
            connection, settings().section(WebhookSettings), actor(request), id,
            url=given.url, event_types=given.event_types, description=given.description,
        )  # fmt: skip
    return asdict(found)


@router.delete(
    "/{id}", response_model=schemas.DisabledEndpoint, summary="Delete an endpoint", **require_role(Role.ADMIN)
)
def delete(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002
    """What waits for it ends as suppressed."""
    with database.transaction() as connection:
        return {"id": id, "ended": endpoints.delete(connection, actor(request), id)}


@router.post(
    "/{id}/rotate", response_model=schemas.EndpointWithSecret, summary="Give an endpoint a new secret",
    **require_role(Role.ADMIN, **_request_body(schemas.SecretRotation, required=False)),
)  # fmt: skip
def rotate(request: Request, database: Database, id: Id, body: OptionalBody) -> dict[str, Any]:  # noqa: A002
    """The old one signs beside it for a day, or as long as is said."""
    given = parse_body(schemas.SecretRotation, body)
    with database.transaction() as connection:
        made = endpoints.rotate_secret(
            connection, settings().section(WebhookSettings), encryptor(request), actor(request), id,
            scheme=given.scheme, overlap_seconds=given.overlap_seconds,
        )  # fmt: skip
    return _with_secret(made)


@router.post(
    "/{id}/disable", response_model=schemas.DisabledEndpoint, summary="Send nothing more to an endpoint",
    **require_role(Role.OP, **_request_body(schemas.DisableRequest)),
)  # fmt: skip
def disable(request: Request, database: Database, id: Id, body: Body) -> dict[str, Any]:  # noqa: A002
    """What waits for it ends as suppressed; 409 if it is disabled already."""
    given = parse_body(schemas.DisableRequest, body)
    with database.transaction() as connection:
        return {"id": id, "ended": endpoints.disable(connection, actor(request), id, given.reason)}


@router.post(
    "/{id}/enable", response_model=schemas.Endpoint, summary="Send to an endpoint again", **require_role(Role.OP)
)
def enable(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002
    """From the next event on; what it has missed is for replay. 409 if it is active."""
    with database.transaction() as connection:
        return asdict(endpoints.enable(connection, actor(request), id))


@router.post(
    "/{id}/test",
    status_code=202,
    response_model=schemas.EnqueuedEvents,
    summary="Send a test event",
    **require_role(Role.OP),
)
def test(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002
    """Of the type backline.test, whatever it subscribes to; 409 if it is disabled."""
    with database.transaction() as connection:
        ids = [events.send_test(connection, actor(request), id)]
    return _enqueued_events(request, ids)


@router.post(
    "/{id}/replay", status_code=202, response_model=schemas.EnqueuedEvents, summary="Send events again",
    **require_role(Role.OP, **_request_body(schemas.WebhookReplay)),
)  # fmt: skip
def replay(request: Request, database: Database, id: Id, body: Body) -> dict[str, Any]:  # noqa: A002
    """One, or what it has missed since a time, oldest first, 10,000 at most; under the events' own ids."""
    given = parse_body(schemas.WebhookReplay, body)
    if (given.message is None) == (given.since is None):
        raise InvalidInput("message", "give either message or since")
    if given.include_delivered and given.since is None:
        raise InvalidInput("everything", "goes with since")
    with database.transaction() as connection:
        if given.message is not None:
            ids = [events.replay_one(connection, actor(request), id, given.message)]
        elif given.since is not None:
            ids = events.replay_since(
                connection, actor(request), id, given.since, include_delivered=given.include_delivered
            )
    return _enqueued_events(request, ids)


def _with_secret(made: endpoints.EndpointWithSecret) -> dict[str, Any]:
    return {**asdict(made.endpoint), "secret": made.secret}


def _enqueued_events(request: Request, ids: list[int]) -> dict[str, Any]:
    shown = ids[: schemas.MAX_LISTED_MESSAGES]
    messages = [{"id": one, "url": api_url(request, f"messages/{one}")} for one in shown]
    return {"count": len(ids), "messages": messages, "request_id": request.state.request_id}
