"""Webhook endpoints over HTTP: create, read, change, rotate, disable, enable, delete, test, replay."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Path, Request, Response

from backline.channels.webhook.settings import WebhookSettings
from backline.encryption import encryptor
from backline.errors import InvalidInput
from backline.settings import settings
from backline.web import schemas
from backline.web.bodies import checked_router
from backline.web.database import Database
from backline.web.roles import Role, actor, route
from backline.web.urls import api_url
from backline.webhooks import endpoints

router = checked_router(prefix="/api/v1/webhooks/endpoints", tags=["webhooks"])

Id = Annotated[str, Path(pattern=r"^ep_[0-9]{1,18}$", examples=["ep_1"])]


@router.post("", **route(Role.ADMIN, "Add an endpoint", schemas.EndpointWithSecret, status=201))
def create(request: Request, response: Response, database: Database, given: schemas.NewEndpoint) -> dict[str, Any]:
    """The response is the only one that contains the secret."""
    with database.transaction() as connection:
        created = endpoints.create(
            connection, settings().section(WebhookSettings), encryptor(), actor(request), url=given.url,
            event_types=given.event_types, description=given.description, scheme=given.scheme,
        )  # fmt: skip
    response.headers["Location"] = api_url(request, f"webhooks/endpoints/{created.endpoint.id}")
    return _with_secret(created)


@router.get("", **route(Role.VIEWER, "All endpoints, oldest first", schemas.EndpointList))
def list_endpoints(database: Database) -> dict[str, Any]:
    """With the recent failures of each, without secrets."""
    with database.transaction() as connection:
        found = endpoints.list_endpoints(connection)
    return {"endpoints": found}


@router.get("/{id}", **route(Role.VIEWER, "One endpoint", endpoints.Endpoint))
def get_endpoint(database: Database, id: Id) -> endpoints.Endpoint:  # noqa: A002 - the path's name
    """With the public keys of its v1a secrets."""
    with database.transaction() as connection:
        return endpoints.get_endpoint(connection, id)


@router.patch("/{id}", **route(Role.ADMIN, "Change an endpoint", endpoints.Endpoint))
def update(request: Request, database: Database, id: Id, given: schemas.EndpointUpdate) -> endpoints.Endpoint:  # noqa: A002
    """Omitted fields are not changed. Waiting messages go to the new URL."""
    with database.transaction() as connection:
        return endpoints.update(
            connection, settings().section(WebhookSettings), actor(request), id,
            url=given.url, event_types=given.event_types, description=given.description,
        )  # fmt: skip


@router.delete("/{id}", **route(Role.ADMIN, "Delete an endpoint", schemas.DisabledEndpoint))
def delete(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002
    """Its waiting messages are suppressed."""
    with database.transaction() as connection:
        return {"id": id, "suppressed_count": endpoints.delete(connection, actor(request), id)}


@router.post("/{id}/rotate", **route(Role.ADMIN, "Create a new secret for an endpoint", schemas.EndpointWithSecret))
def rotate(
    request: Request,
    database: Database,
    id: Id,  # noqa: A002
    given: schemas.SecretRotation = schemas.SecretRotation(),  # noqa: B008 - FastAPI copies it
) -> dict[str, Any]:
    """The old secret also signs for a day, or for `overlap_seconds`."""
    with database.transaction() as connection:
        rotated = endpoints.rotate_secret(
            connection, settings().section(WebhookSettings), encryptor(), actor(request), id,
            scheme=given.scheme, overlap_seconds=given.overlap_seconds,
        )  # fmt: skip
    return _with_secret(rotated)


@router.post("/{id}/disable", **route(Role.OP, "Stop sending to an endpoint", schemas.DisabledEndpoint))
def disable(request: Request, database: Database, id: Id, given: schemas.DisableRequest) -> dict[str, Any]:  # noqa: A002
    """Its waiting messages are suppressed; 409 if it is already disabled."""
    with database.transaction() as connection:
        return {"id": id, "suppressed_count": endpoints.disable(connection, actor(request), id, given.reason)}


@router.post("/{id}/enable", **route(Role.OP, "Resume sending to an endpoint", endpoints.Endpoint))
def enable(request: Request, database: Database, id: Id) -> endpoints.Endpoint:  # noqa: A002
    """From the next event on; replay the events that it has missed. 409 if it is active."""
    with database.transaction() as connection:
        return endpoints.enable(connection, actor(request), id)


@router.post("/{id}/test", **route(Role.OP, "Send a test event", schemas.EnqueuedEvents, status=202))
def test(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002
    """Of the type backline.test, whatever it subscribes to; 409 if it is disabled."""
    with database.transaction() as connection:
        ids = [endpoints.send_test(connection, actor(request), id)]
    return _enqueued_events(request, ids)


@router.post("/{id}/replay", **route(Role.OP, "Send events again", schemas.EnqueuedEvents, status=202))
def replay(request: Request, database: Database, id: Id, given: schemas.WebhookReplay) -> dict[str, Any]:  # noqa: A002
    """One event, or those missed since a time, oldest first, at most 10,000; the event ids stay the same."""
    if given.include_delivered and given.since is None:
        raise InvalidInput("include_delivered", "requires since")
    with database.transaction() as connection:
        if given.message is not None and given.since is None:
            ids = [endpoints.replay_one(connection, actor(request), id, given.message)]
        elif given.since is not None and given.message is None:
            ids = endpoints.replay_since(
                connection, actor(request), id, given.since, include_delivered=given.include_delivered
            )
        else:
            raise InvalidInput("message", "give either message or since")
    return _enqueued_events(request, ids)


def _with_secret(found: endpoints.EndpointWithSecret) -> dict[str, Any]:
    return {**asdict(found.endpoint), "secret": found.secret}


def _enqueued_events(request: Request, ids: list[int]) -> dict[str, Any]:
    listed = ids[: schemas.MAX_LISTED_MESSAGES]
    messages = [{"id": message_id, "url": api_url(request, f"messages/{message_id}")} for message_id in listed]
    return {"count": len(ids), "messages": messages, "request_id": request.state.request_id}
