"""The FastAPI app that Airflow's api-server mounts under /backline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from backline.settings import settings
from backline.web import audit, health, hooks, messages, preferences, problems, runs, unsubscribe, webhooks
from backline.web.auth_middleware import AuthMiddleware
from backline.web.bodies import METHODS_WITHOUT_BODY, CheckedRoute
from backline.web.database import Connections
from backline.web.limits import RequestLimits
from backline.web.problems import PROBLEM_TYPES
from backline.web.roles import ENABLED_BY, LEAST_ROLE, MAX_BODY, NOBODY
from backline.web.schemas import NewMessage
from backline.web.settings import HookSettings, HttpSettings

ROUTERS = (
    health.router, messages.router, runs.router, preferences.router, webhooks.router, audit.router, hooks.router,
    unsubscribe.router,
)  # fmt: skip
"""All routes. One without a login is below one of `roles.PUBLIC_PATHS`; every other one has `roles.route`."""


def create_app() -> FastAPI:
    """Create the app. It reads the settings; connections are opened by the first request that needs one."""
    config = settings().section(HttpSettings)
    app = FastAPI(
        title="Backline",
        version="1",
        description="Messages and jobs of Backline. Log in as for Airflow's own API.",
        docs_url=None,  # it loads scripts from other hosts, and so does redoc
        redoc_url=None,
        openapi_url="/openapi.json",
        lifespan=_lifespan,
    )
    app.state.config = config
    app.state.connections = Connections(config)
    app.state.hooks = settings().section(HookSettings)
    app.state.limits = RequestLimits(config)
    app.add_middleware(AuthMiddleware)
    problems.install_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    if unchecked := [one for one in app.routes if isinstance(one, APIRoute) and not isinstance(one, CheckedRoute)]:
        raise TypeError(f"use bodies.checked_router for {unchecked}")
    app.openapi = lambda: _openapi_document(app)  # type: ignore[method-assign]
    return app


_PROBLEM_CONTENT = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def _problem_statuses(path: str, method: str, operation: Mapping[str, Any]) -> list[int]:
    """The errors of a route, by what it takes."""
    found = {500, 503}
    if operation[LEAST_ROLE] != NOBODY:
        found |= {401, 403}
    if operation.get(ENABLED_BY):
        found |= {403, 404}
    if "{" in path:
        found |= {404}
    if "{" in path or operation.get("parameters") or "requestBody" in operation:
        found |= {422}
    if method.upper() not in METHODS_WITHOUT_BODY:
        found |= {400, 408, 413}
        if operation[LEAST_ROLE] != NOBODY:
            found |= {409}
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        found |= {415}
    return sorted(found)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.connections.close()


def _openapi_document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with problems for all errors, logins, and the messages that a route parses itself."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        parts = document.setdefault("components", {})
        _, extra = models_json_schema(
            [(NewMessage, "validation"), (problems.Problem, "validation")], ref_template="#/components/schemas/{model}"
        )
        parts["schemas"] = {
            name: schema
            for name, schema in {**parts.get("schemas", {}), **extra["$defs"]}.items()
            if name not in {"HTTPValidationError", "ValidationError"}
        }
        parts["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "POST /auth/token"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": "_token", "description": "Airflow's own login"},
        }
        document["security"] = [{"bearer": []}, {"cookie": []}]
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                operation["responses"].pop("422", None)
                operation["responses"] |= {
                    str(status): {"description": PROBLEM_TYPES[status][1], "content": _PROBLEM_CONTENT}
                    for status in _problem_statuses(path, method, operation)
                    if str(status) not in operation["responses"]
                }
                operation[MAX_BODY] = app.state.limits.max_body_bytes(operation[MAX_BODY])
                if operation[LEAST_ROLE] == NOBODY:
                    operation["security"] = []
    return app.openapi_schema or {}
