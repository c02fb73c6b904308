"""The audit trail over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from backline import audit_trail
from backline.web import schemas
from backline.web.database import Connections, connections
from backline.web.roles import Role, require_role
from backline.web.urls import next_url

router = APIRouter(prefix="/api/v1", tags=["audit trail"])

Text = Annotated[str | None, Query(max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]


@router.get(
    "/audit-trail",
    response_model=schemas.AuditEntryList,
    summary="Who did what, newest first",
    **require_role(Role.ADMIN),
)
def search(
    request: Request,
    database: Annotated[Connections, Depends(connections)],
    actor: Text = None,
    action: Text = None,
    target: Text = None,
    request_id: Text = None,
    since: schemas.Timestamp | None = None,
    until: schemas.Timestamp | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[int | None, Query(ge=1, le=schemas.MAX_ID)] = None,
) -> dict[str, Any]:
    """By actor, act (`message.cancel`), object (`message/17`), request and time."""
    filters = audit_trail.Filters(actor, action, target, request_id, since, until)
    with database.transaction() as connection:
        acts = audit_trail.search(connection, filters, cursor, limit)
    following = int(acts[-1]["id"]) if len(acts) == limit else None
    return {"acts": acts, "next": next_url(request, following)}
