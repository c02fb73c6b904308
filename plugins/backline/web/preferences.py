"""Preferences over HTTP: addresses that get nothing, and how one recipient wants to be written to."""

from __future__ import annotations

from datetime import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from backline.preferences import records
from backline.preferences.records import Wishes
from backline.web import schemas
from backline.web.bodies import SUPPRESSION, WISH, Body, read
from backline.web.database import Connections, connections
from backline.web.roles import Role, least, who
from backline.web.urls import next_url

router = APIRouter(prefix="/api/v1", tags=["preferences"])

Database = Annotated[Connections, Depends(connections)]
Id = Annotated[int, Path(ge=1, le=schemas.HIGHEST_ID)]
Address = Annotated[str, Query(min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]
Reason = Annotated[str | None, Query(max_length=40, pattern=r"^[a-z_]+$")]


@router.get(
    "/suppressions", response_model=schemas.SuppressionList, summary="Addresses that get nothing", **least(Role.VIEWER)
)
def suppressions(
    request: Request,
    database: Database,
    channel: schemas.Channel | None = None,
    address: Address | None = None,
    reason: Reason = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[int | None, Query(ge=1, le=schemas.HIGHEST_ID)] = None,
) -> dict[str, Any]:
    """By channel, address (in any spelling) and reason, newest first."""
    with database.transaction() as connection:
        found = records.suppressions(connection, records.Filters(channel, address, reason), cursor, limit)
    return {"suppressions": found, "next": next_url(request, found[-1]["id"] if len(found) == limit else None)}


@router.post(
    "/suppressions", status_code=201, response_model=schemas.Suppression, summary="Write to an address no more",
    **least(Role.OP, requestBody=SUPPRESSION),
)  # fmt: skip
def add(request: Request, database: Database, body: Body) -> dict[str, Any]:
    """For good or until a time; one that is suppressed for longer stays so."""
    given = read(schemas.NewSuppression, body)
    with database.transaction() as connection:
        return records.suppress(
            connection, given.channel, given.address, who(request), until=given.until, detail=given.detail
        )


@router.post(
    "/suppressions/{id}/remove", response_model=schemas.Suppression, summary="Let an address be written to again",
    **least(Role.OP),
)  # fmt: skip
def remove(request: Request, database: Database, id: Id) -> dict[str, Any]:  # noqa: A002 - the path's name
    """Messages that were suppressed stay so; send them again if they are still wanted."""
    with database.transaction() as connection:
        return records.lift(connection, id, who(request))


@router.get(
    "/preferences", response_model=schemas.Preferences, summary="All that is known of one recipient",
    **least(Role.VIEWER),
)  # fmt: skip
def preferences(database: Database, channel: schemas.Channel, address: Address) -> dict[str, Any]:
    """Zone, quiet hours, limit, topics left, and whether they are suppressed."""
    with database.transaction() as connection:
        return records.preferences(connection, channel, address)


@router.post(
    "/preferences", response_model=schemas.Preferences, summary="Say how one recipient wants to be written to",
    **least(Role.OP, requestBody=WISH),
)  # fmt: skip
def wish(request: Request, database: Database, body: Body) -> dict[str, Any]:
    """Whole: what is left out is as the settings say; `left` alone, left out, stays as it is."""
    given = read(schemas.Wish, body)
    wishes = Wishes(given.zone, _clock(given.quiet_from), _clock(given.quiet_until), given.per_day)
    with database.transaction() as connection:
        records.wish(connection, given.channel, given.address, wishes, given.left, who(request))
        return records.preferences(connection, given.channel, given.address)


def _clock(text: str | None) -> time | None:
    return None if text is None else time.fromisoformat(text)
