"""The audit trail over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from backline import audit_trail
from backline.web import schemas
from backline.web.database import Connections, connections
from backline.web.roles import Role, least
from backline.web.urls import next_url

router = APIRouter(prefix="/api/v1", tags=["audit trail"])

Text = Annotated[str | None, Query(max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]


@router.get("/audit-trail", response_model=schemas.ActList, summary="Who did what, newest first", **least(Role.ADMIN))
def search(
    request: Request,
    database: Annotated[Connections, Depends(connections)],
    actor: Text = None,
    act: Text = None,
    object: Text = None,  # noqa: A002 - the parameter's name
    request_id: Text = None,
    since: schemas.Time | None = None,
    until: schemas.Time | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[int | None, Query(ge=1, le=schemas.HIGHEST_ID)] = None,
) -> dict[str, Any]:
    """By actor, act (`message.cancel`), object (`message/17`), request and time."""
    filters = audit_trail.Filters(actor, act, object, request_id, since, until)
    with database.transaction() as connection:
        acts = audit_trail.search(connection, filters, cursor, limit)
    following = int(acts[-1]["id"]) if len(acts) == limit else None
    return {"acts": acts, "next": next_url(request, following)}
