"""The audit trail over HTTP."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from backline import audit_trail
from backline.web import schemas
from backline.web.bodies import checked_router
from backline.web.database import Database
from backline.web.roles import Role, route
from backline.web.urls import next_url

router = checked_router(prefix="/api/v1", tags=["audit trail"])


@router.get("/audit-trail", **route(Role.ADMIN, "Who did what, newest first", schemas.AuditEntryList))
def search(
    request: Request,
    database: Database,
    actor: schemas.Text = None,
    action: schemas.Text = None,
    target: schemas.Text = None,
    request_id: schemas.Text = None,
    since: schemas.Timestamp | None = None,
    until: schemas.Timestamp | None = None,
    limit: schemas.Limit = 50,
    cursor: schemas.Cursor = None,
) -> dict[str, Any]:
    """By actor, action (`message.cancel`), target (`message/17`), request and time."""
    filters = audit_trail.Filters(actor, action, target, request_id, since, until)
    with database.transaction() as connection:
        entries = audit_trail.search(connection, filters, cursor, limit)
    return {"entries": entries, "next": next_url(request, entries[-1]["id"] if len(entries) == limit else None)}
