"""The FastAPI app that Airflow's api-server mounts under /backline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from backline.settings import settings
from backline.web import (
    audit,
    health,
    hooks,
    messages,
    payment_hooks,
    preferences,
    problems,
    schemas,
    unsubscribe,
    webhook_schemas,
    webhooks,
)
from backline.web.auth_middleware import AuthMiddleware
from backline.web.database import Connections
from backline.web.roles import LEAST_ROLE, NOBODY
from backline.web.settings import HttpSettings

ROUTERS = (
    health.router, messages.router, preferences.router, webhooks.router, audit.router, hooks.router,
    payment_hooks.router, unsubscribe.router,
)  # fmt: skip
"""All routes. One without login has its prefix in `roles.PUBLIC`; every other one names its `roles.least` role."""

REQUEST_BODIES = (
    schemas.NewMessage, schemas.Replay, schemas.NewSuppression, schemas.PreferenceUpdate, webhook_schemas.NewEndpoint,
    webhook_schemas.EndpointUpdate, webhook_schemas.SecretRotation, webhook_schemas.DisableRequest, webhook_schemas.WebhookReplay,
)  # fmt: skip
"""Bodies that we read ourselves."""


def create_app() -> FastAPI:
    """The app, with its settings read; nothing is connected before the first request needs it."""
    config = settings().section(HttpSettings)
    app = FastAPI(
        title="Backline",
        version="1",
        description="Messages and jobs of Backline. Log in as for Airflow's own API.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
        lifespan=_lifespan,
    )
    app.state.config = config
    app.state.connections = Connections(config)
    app.add_middleware(AuthMiddleware, max_body_bytes=int(config.max_body_mib * 2**20))
    problems.install_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = lambda: _openapi_document(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.connections.close()


def _openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with problems for every refusal, logins, and the bodies that we read ourselves."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        parts = document.setdefault("components", {})
        _, extra = models_json_schema(
            [(model, "validation") for model in (*REQUEST_BODIES, problems.Problem)],
            ref_template="#/components/schemas/{model}",
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
        problem = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for operations in document["paths"].values():
            for operation in operations.values():
                answers = operation["responses"]
                answers.pop("422", None)
                answers["default"] = {"description": "A problem (RFC 9457)", "content": problem}
                if operation[LEAST_ROLE] == NOBODY:
                    operation["security"] = []
    return app.openapi_schema or {}
