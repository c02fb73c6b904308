"""Who may do what: Airflow's own users and permissions, as three roles. And the one list of what needs no login."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi import Depends, Request

from backline.audit_trail import Actor
from backline.web.problems import ApiError

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod

PUBLIC_PATHS = ("/livez", "/readyz", "/openapi.json", "/hooks/", "/unsubscribe/")
"""What anybody may ask, below the prefix; one that ends in "/" with all below it.

A router for providers' hooks or for unsubscribing gets such a prefix, is included in `app.ROUTERS`, and checks its own
proof (a provider's signature, an opaque token) before it does anything; it says nothing more than it must.
"""
LEAST_ROLE = "x-least-role"
"""The OpenAPI extension that says who may use a route."""
NOBODY = "nobody"


class Role(StrEnum):
    """Each may do what those above it may."""

    VIEWER = "viewer"
    """Who may read DAG runs."""
    OP = "op"
    """Who may also start DAG runs: a `send_*` run sends just as the HTTP API does."""
    ADMIN = "admin"
    """Who may also read Airflow's audit log."""


def is_public(path: str) -> bool:
    """Whether a path below the prefix needs no login."""
    return any(path.startswith(prefix) if prefix.endswith("/") else path == prefix for prefix in PUBLIC_PATHS)


def has_role(role: Role, user: BaseUser) -> bool:
    """Whether Airflow's auth manager grants what the role stands for."""
    manager = get_auth_manager()
    method: ResourceMethod = "GET" if role is Role.VIEWER else "POST"
    if not manager.is_authorized_dag(method=method, access_entity=DagAccessEntity.RUN, user=user):
        return False
    if role is not Role.ADMIN:
        return True
    if isinstance(user, SimpleAuthManagerUser):  # has no permission that tells its admins from its ops
        return (user.role or "").lower() == Role.ADMIN
    return manager.is_authorized_dag(method="GET", access_entity=DagAccessEntity.AUDIT_LOG, user=user)


def require_role(role: Role, **openapi: Any) -> dict[str, Any]:
    """Keyword arguments of a route that asks for this role: `@router.get("/lanes", **least(Role.VIEWER))`.

    `openapi` goes into the route's part of the OpenAPI document.
    """

    def check(request: Request) -> None:
        user: BaseUser = request.state.user
        if not has_role(role, user):
            raise ApiError(403, f"{user.get_name()} may not do this; it takes Airflow's permissions of the role {role}")

    return {"dependencies": [Depends(check)], "openapi_extra": {LEAST_ROLE: role.value, **openapi}}


def public() -> dict[str, Any]:
    """Keyword arguments of a route without login; its path must be in PUBLIC."""
    return {"openapi_extra": {LEAST_ROLE: NOBODY}}


def actor(request: Request) -> Actor:
    """Who asks, for the audit trail."""
    return Actor(request.state.user.get_name(), request.state.request_id)
