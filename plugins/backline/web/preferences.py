"""Preferences over HTTP: addresses that get nothing, and how one recipient wants to be written to."""

from __future__ import annotations

from datetime import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from backline.preferences import repository
from backline.preferences.repository import RecipientPreference
from backline.web import schemas
from backline.web.bodies import PREFERENCE_UPDATE, SUPPRESSION, Body, parse_body
from backline.web.database import Connections, connections
from backline.web.roles import Role, actor, require_role
from backline.web.urls import next_url

router = APIRouter(prefix="/api/v1", tags=["preferences"])

Database = Annotated[Connections, Depends(connections)]
Id = Annotated[int, Path(ge=1, le=schemas.MAX_ID)]
Address = Annotated[str, Query(min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]
Reason = Annotated[str | None, Query(max_length=40, pattern=r"^[a-z_]+$")]


@router.get(
    "/suppressions",
    response_model=schemas.SuppressionList,
    summary="Addresses that get nothing",
    **require_role(Role.VIEWER),
)
def list_suppressions(
    request: Request,
    database: Database,
    channel: schemas.Channel | None = None,
    address: Address | None = None,
    reason: Reason = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[int | None, Query(ge=1, le=schemas.MAX_ID)] = None,
) -> dict[str, Any]:
    """By channel, address (in any spelling) and reason, newest first."""
    with database.transaction() as connection:
        found = repository.list_suppressions(
            connection, repository.SuppressionFilters(channel, address, reason), cursor, limit
        )
    return {"suppressions": found, "next": next_url(request, found[-1]["id"] if len(found) == limit else None)}


@router.post(
    "/suppressions", status_code=201, response_model=schemas.Suppression, summary="Write to an address no more",
    **require_role(Role.OP, requestBody=SUPPRESSION),
)  # fmt: skip
def add_suppression(request: Request, database: Database, body: Body) -> dict[str, Any]:
    """For good or until a time; one that is suppressed for longer stays so."""
    given = parse_body(schemas.NewSuppression, body)
    with database.transaction() as connection:
        return repository.suppress(
            connection, given.channel, given.address, actor(request), until=given.until, detail=given.detail
        )


@router.post(
    "/suppressions/{id}/remove", response_model=schemas.Suppression, summary="Let an address be written to again",
    **require_role(Role.OP),
)  # fmt: skip
def remove_suppression(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002 - the path's name
    """Messages that were suppressed stay so; send them again if they are still wanted."""
    with database.transaction() as connection:
        return repository.remove_suppression(connection, id, actor(request))


@router.get(
    "/preferences", response_model=schemas.Preferences, summary="All that is known of one recipient",
    **require_role(Role.VIEWER),
)  # fmt: skip
def get_preferences(database: Database, channel: schemas.Channel, address: Address) -> dict[str, Any]:
    """Zone, quiet hours, limit, topics left, and whether they are suppressed."""
    with database.transaction() as connection:
        return repository.get_preferences(connection, channel, address)


@router.post(
    "/preferences", response_model=schemas.Preferences, summary="Say how one recipient wants to be written to",
    **require_role(Role.OP, requestBody=PREFERENCE_UPDATE),
)  # fmt: skip
def update_preference(request: Request, database: Database, body: Body) -> dict[str, Any]:
    """Whole: what is left out is as the settings say; `left` alone, left out, stays as it is."""
    given = parse_body(schemas.PreferenceUpdate, body)
    wishes = RecipientPreference(
        given.zone, _parse_time(given.quiet_from), _parse_time(given.quiet_until), given.per_day
    )
    with database.transaction() as connection:
        repository.update_preference(connection, given.channel, given.address, wishes, given.opted_out, actor(request))
        return repository.get_preferences(connection, given.channel, given.address)


def _parse_time(text: str | None) -> time | None:
    return None if text is None else time.fromisoformat(text)
