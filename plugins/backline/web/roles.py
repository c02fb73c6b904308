"""Authorization: Airflow's users and permissions as three roles, and the only list of paths without a login."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import HTTPException, Request

from backline.audit_trail import Actor
from backline.web.problems import ApiError

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod

PUBLIC_PATHS = ("/livez", "/readyz", "/openapi.json", "/hooks/", "/unsubscribe/")
"""Paths below the prefix without login; a last "/" includes all below. Each route there checks its own proof first."""
LEAST_ROLE = "x-least-role"
"""The OpenAPI extension with the least role that may use a route."""
NOBODY = "nobody"
MAX_BODY = "x-max-body-bytes"
"""The OpenAPI extension with the limit of the route's body; `http.max_body_mib` may be lower."""
ENABLED_BY = "x-enabled-by"
"""The OpenAPI extension with the setting of [hooks] without which the route is a 404."""
SMALL_BODY_BYTES = 64 * 2**10
"""Limit of a body by default."""
EVENT_BODY_BYTES = 2**20
"""Limit of a provider's events: SNS sends at most 256 KiB at once, SendGrid 768 KiB."""
LARGE_BODY_BYTES = 2**30
"""Only `http.max_body_mib` limits the body."""


class Role(StrEnum):
    """Roles in ascending order: each includes the rights of those before it."""

    VIEWER = "viewer"
    """May read DAG runs."""
    OP = "op"
    """May also start DAG runs: a `send_*` run sends just as the HTTP API does."""
    ADMIN = "admin"
    """May also read Airflow's audit log."""


def is_public(path: str) -> bool:
    """Whether a path below the prefix needs no login."""
    return any(path.startswith(prefix) if prefix.endswith("/") else path == prefix for prefix in PUBLIC_PATHS)


def has_role(role: Role, user: BaseUser) -> bool:
    """Whether Airflow's auth manager grants the user the role's rights."""
    manager = get_auth_manager()
    method: ResourceMethod = "GET" if role is Role.VIEWER else "POST"
    if not manager.is_authorized_dag(method=method, access_entity=DagAccessEntity.RUN, user=user):
        return False
    if role is not Role.ADMIN:
        return True
    if isinstance(user, SimpleAuthManagerUser):  # no permission distinguishes its admins from its ops
        return (user.role or "").lower() == Role.ADMIN
    return manager.is_authorized_dag(method="GET", access_entity=DagAccessEntity.AUDIT_LOG, user=user)


def require_role(request: Request, role: Role) -> None:
    """403 unless the user has the role."""
    user: BaseUser = request.state.user
    if not has_role(role, user):
        raise ApiError(403, f"{user.get_name()} needs Airflow's permissions of the role {role}")


def route(
    role: Role,
    summary: str,
    response: Any,
    *,
    status: int = 200,
    max_body_bytes: int = SMALL_BODY_BYTES,
    **openapi: Any,
) -> dict[str, Any]:
    """Arguments of a route that requires a role; `response` is its model, `openapi` adds to its OpenAPI description."""
    extra = {LEAST_ROLE: role.value, MAX_BODY: max_body_bytes, **openapi}
    return {"summary": summary, "response_model": response, "status_code": status, "openapi_extra": extra}


def public_route(
    summary: str,
    response: Any = None,
    *,
    status: int = 200,
    max_body_bytes: int = SMALL_BODY_BYTES,
    enabled_by: str | None = None,
    **openapi: Any,
) -> dict[str, Any]:
    """Arguments of a route without a login; its path must be in PUBLIC_PATHS. `enabled_by` is its setting of [hooks]."""
    extra = {
        LEAST_ROLE: NOBODY,
        MAX_BODY: max_body_bytes,
        **openapi,
        **({ENABLED_BY: enabled_by} if enabled_by else {}),
    }
    return {"summary": summary, "response_model": response, "status_code": status, "openapi_extra": extra}


def require_dag_access(request: Request, dag_id: str) -> None:
    """403 unless Airflow lets the user read the runs of this DAG."""
    user: BaseUser = request.state.user
    try:
        requires_access_dag("GET", DagAccessEntity.RUN, dag_id)(request, user)
    except HTTPException:
        raise ApiError(403, f"{user.get_name()} may not read the runs of DAG {dag_id}") from None


def actor(request: Request) -> Actor:
    """The user and request id, for the audit trail."""
    return Actor(request.state.user.get_name(), request.state.request_id)


def key_scope(request: Request) -> str:
    """The scope of the user's idempotency keys. The API's database role is the same for all users, and the jobs'."""
    return f"http:{request.state.user.get_id()}"
