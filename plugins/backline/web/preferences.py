"""Suppressions and preferences over HTTP."""

from __future__ import annotations

from datetime import time
from typing import Annotated, Any

from fastapi import Query, Request

from backline.preferences import repository
from backline.settings import ChannelName
from backline.web import schemas
from backline.web.bodies import checked_router
from backline.web.database import Database
from backline.web.roles import Role, actor, route
from backline.web.schemas import Id
from backline.web.urls import next_url

router = checked_router(prefix="/api/v1", tags=["preferences"])

Address = Annotated[str, Query(min_length=1, max_length=400, pattern=schemas.ONE_LINE)]


@router.get("/suppressions", **route(Role.VIEWER, "Suppressed addresses", schemas.SuppressionList))
def list_suppressions(
    request: Request,
    database: Database,
    channel: ChannelName | None = None,
    address: Address | None = None,
    reason: schemas.SuppressionReason | None = None,
    limit: schemas.Limit = 50,
    cursor: schemas.Cursor = None,
) -> dict[str, Any]:
    """By channel, address (in any spelling) and reason, newest first."""
    filters = repository.SuppressionFilters(channel, address, reason)
    with database.transaction() as connection:
        found = repository.list_suppressions(connection, filters, cursor, limit)
    return {"suppressions": found, "next": next_url(request, found[-1].id if len(found) == limit else None)}


@router.post("/suppressions", **route(Role.OP, "Suppress an address", schemas.Suppression, status=201))
def add_suppression(request: Request, database: Database, given: schemas.NewSuppression) -> repository.Suppression:
    """Permanently or until a time; an existing suppression that lasts longer is kept."""
    with database.transaction() as connection:
        return repository.suppress(
            connection, given.channel, given.address, actor(request), until=given.until, detail=given.detail
        )


@router.post("/suppressions/{id}/remove", **route(Role.OP, "Remove a suppression", schemas.Suppression))
def remove_suppression(request: Request, database: Database, id: Id) -> repository.Suppression:  # noqa: A002
    """Messages that were suppressed stay suppressed; replay them if they are still wanted."""
    with database.transaction() as connection:
        return repository.remove_suppression(connection, id, actor(request))


@router.get("/preferences", **route(Role.VIEWER, "The preferences of one recipient", schemas.Preferences))
def get_preferences(database: Database, channel: ChannelName, address: Address) -> dict[str, Any]:
    """Time zone, quiet hours, daily limit, opt-outs and suppression."""
    with database.transaction() as connection:
        return repository.get_preferences(connection, channel, address)


@router.post("/preferences", **route(Role.OP, "Set the preferences of one recipient", schemas.Preferences))
def update_preference(request: Request, database: Database, given: schemas.PreferenceUpdate) -> dict[str, Any]:
    """A field that is left out is reset to the settings' default; `opted_out`, if left out, is not changed."""
    preference = repository.RecipientPreference(
        given.zone, _parse_time(given.quiet_from), _parse_time(given.quiet_until), given.per_day
    )
    with database.transaction() as connection:
        repository.update_preference(
            connection, given.channel, given.address, preference, given.opted_out, actor(request)
        )
        return repository.get_preferences(connection, given.channel, given.address)


def _parse_time(text: str | None) -> time | None:
    return None if text is None else time.fromisoformat(text)
