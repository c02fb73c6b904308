"""Every route of the app, requested without a login and by each role, against this table of least roles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager
from airflow.providers.fab.auth_manager.security_manager.override import FabAirflowSecurityManagerOverride
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from backline.settings import ROOT
from backline.web import app as web_app
from backline.web import roles
from backline.web.roles import PUBLIC_PATHS, Role, has_role, is_public
from backline.web.settings import HookSettings
from backline.web.urls import PREFIX
from tests.integration.web.conftest import Api

LEAST = {
    ("GET", "/livez"): "nobody",
    ("GET", "/readyz"): "nobody",
    ("GET", "/openapi.json"): "nobody",
    ("POST", "/api/v1/messages"): "op",
    ("GET", "/api/v1/messages"): "viewer",
    ("GET", "/api/v1/messages/{id}"): "viewer",
    ("GET", "/api/v1/groups/{id}"): "viewer",
    ("POST", "/api/v1/messages/{id}/cancel"): "op",
    ("POST", "/api/v1/messages/{id}/retry"): "op",
    ("POST", "/api/v1/messages/{id}/replay"): "op",
    ("GET", "/api/v1/runs/{id}/result"): "viewer",
    ("GET", "/api/v1/runs/{id}/progress"): "viewer",
    ("GET", "/api/v1/webhooks/endpoints"): "viewer",
    ("POST", "/api/v1/webhooks/endpoints"): "admin",
    ("GET", "/api/v1/webhooks/endpoints/{id}"): "viewer",
    ("PATCH", "/api/v1/webhooks/endpoints/{id}"): "admin",
    ("DELETE", "/api/v1/webhooks/endpoints/{id}"): "admin",
    ("POST", "/api/v1/webhooks/endpoints/{id}/rotate"): "admin",
    ("POST", "/api/v1/webhooks/endpoints/{id}/disable"): "op",
    ("POST", "/api/v1/webhooks/endpoints/{id}/enable"): "op",
    ("POST", "/api/v1/webhooks/endpoints/{id}/test"): "op",
    ("POST", "/api/v1/webhooks/endpoints/{id}/replay"): "op",
    ("GET", "/api/v1/suppressions"): "viewer",
    ("POST", "/api/v1/suppressions"): "op",
    ("POST", "/api/v1/suppressions/{id}/remove"): "op",
    ("GET", "/api/v1/preferences"): "viewer",
    ("POST", "/api/v1/preferences"): "op",
    ("GET", "/api/v1/audit-trail"): "admin",
    ("POST", "/hooks/ses"): "nobody",
    ("POST", "/hooks/sendgrid"): "nobody",
    ("POST", "/hooks/mailgun"): "nobody",
    ("POST", "/hooks/twilio"): "nobody",
    ("POST", "/hooks/stripe"): "nobody",
    ("POST", "/hooks/razorpay"): "nobody",
    ("GET", "/unsubscribe/{token}"): "nobody",
    ("POST", "/unsubscribe/{token}"): "nobody",
}
ORDER = ("nobody", "viewer", "op", "admin")
# Airflow's "user" stands between viewer and op: it may start DAG runs, so it may send.
SAME_AS = {"user": "op"}
_ROW = re.compile(r"^\| `(GET|POST|PATCH|DELETE) (/\S*)` \|.*\| (\w+) \|$", re.MULTILINE)


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    for route in app.routes:
        assert not isinstance(route, Mount), f"{route.path}: its routes are not walked"
        assert isinstance(route, Route | APIRoute)
        yield from ((method, route.path) for method in (route.methods or set()) - {"HEAD"})


def test_the_table_has_every_route(api: Api) -> None:
    assert sorted(routes(api.app)) == sorted(LEAST)


@pytest.mark.parametrize("role", ["nobody", "viewer", "user", "op", "admin"])
def test_every_route_requires_its_least_role(api: Api, role: str) -> None:
    api.app.state.hooks = HookSettings()  # as shipped: an open one refuses what is not signed
    rank = ORDER.index(SAME_AS.get(role, role))
    outcomes = {}
    for method, path in LEAST:
        answer = api.call(method, PREFIX + path.replace("{id}", "1"), None if role == "nobody" else role)
        outcomes[method, path] = answer.status_code
    expected = {
        where: rank >= ORDER.index(least) or (401 if role == "nobody" else 403) for where, least in LEAST.items()
    }
    assert {where: code if code in (401, 403) else True for where, code in outcomes.items()} == expected


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/api/v1/nothing", "/hooks", "/livezz", "/api/v1/messages/1/nothing"]
)
def test_an_unknown_path_is_a_404_only_after_a_login(api: Api, path: str) -> None:
    assert api.call("GET", PREFIX + path, None).status_code == 401
    assert api.call("GET", PREFIX + path, "viewer").status_code == 404


def test_public_paths_are_one_list() -> None:
    assert PUBLIC_PATHS == ("/livez", "/readyz", "/openapi.json", "/hooks/", "/unsubscribe/")
    assert is_public("/hooks/ses")
    assert not is_public("/api/v1/hooks/ses")


@pytest.mark.parametrize(
    "token", ["", "nonsense", "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiJhZG1pbiIsInJvbGUiOiJhZG1pbiJ9.c2lnbmF0dXJl"]
)
def test_an_invalid_token_is_refused(api: Api, token: str) -> None:
    answer = api.call("GET", "messages", None, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("named", "granted"),
    [("Public", ""), ("Viewer", "viewer"), ("User", "viewer op"), ("Op", "viewer op"), ("Admin", "viewer op admin")],
)
def test_the_roles_of_fab_map_to_ours(monkeypatch: pytest.MonkeyPatch, named: str, granted: str) -> None:
    """With the permissions that FAB ships for its roles."""
    shipped = {role["role"]: role["perms"] for role in FabAirflowSecurityManagerOverride.ROLE_CONFIGS}
    manager = FabAuthManager()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(roles, "get_auth_manager", lambda: manager)
    user: Any = SimpleNamespace(perms=set(shipped[named]), get_name=lambda: named)
    assert [role.value for role in Role if has_role(role, user)] == granted.split()


def test_the_documentation_lists_every_route(api: Api) -> None:
    """docs/api.md, the OpenAPI document and the table above are equal."""
    document = api.get(f"{PREFIX}/openapi.json", None).json()
    said = {
        (method.upper(), path): operation["x-least-role"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    table = {(method, path): role for method, path, role in _ROW.findall((ROOT / "docs" / "api.md").read_text("utf-8"))}
    itself = {("GET", "/openapi.json"): "nobody"}  # not in the document
    assert said | itself == LEAST
    assert table == LEAST


def test_a_route_without_checks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    router = APIRouter()
    router.add_api_route("/open", lambda: None)
    monkeypatch.setattr(web_app, "ROUTERS", (router,))
    with pytest.raises(TypeError, match="checked_router"):
        web_app.create_app()


def test_the_document_describes_every_body(api: Api) -> None:
    document = api.get(f"{PREFIX}/openapi.json", None).json()
    bodies = {
        path: operation["requestBody"]
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if "requestBody" in operation
    }
    assert {path.removeprefix("/api/v1/") for path, body in bodies.items() if body.get("required")} == {
        "messages", "suppressions", "preferences", "webhooks/endpoints", "webhooks/endpoints/{id}",
        "webhooks/endpoints/{id}/disable", "webhooks/endpoints/{id}/replay",
        *(path for _, path in LEAST if path.startswith("/hooks/")),
    }  # fmt: skip
    optional = {path.removeprefix("/api/v1/") for path, body in bodies.items() if not body.get("required")}
    assert optional == {"messages/{id}/replay", "webhooks/endpoints/{id}/rotate", "/unsubscribe/{token}"}
    schemas = set(document["components"]["schemas"])
    assert set(re.findall('"#/components/schemas/([^"]+)"', json.dumps(document))) <= schemas
    assert not {"HTTPValidationError", "ValidationError"} & schemas
