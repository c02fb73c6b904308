"""The API's own URLs and those of Airflow's pages, as paths: whatever proxy stands before it, they hold."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import Request

PREFIX = "/backline"
API = "/api/v1"


def api_url(request: Request, path: str, **query: str) -> str:
    """A route of the API below its version: `api_url(request, "messages/17")`."""
    asked = f"?{urlencode(query)}" if query else ""
    return f"{request.scope.get('root_path', '')}{API}/{path}{asked}"


def next_url(request: Request, cursor: int | None) -> str | None:
    """This request's URL with another cursor; None without one."""
    if cursor is None:
        return None
    url = request.url.include_query_params(cursor=cursor)
    return f"{url.path}?{url.query}"


def ui_url(request: Request, path: str | None) -> str | None:
    """A page of Airflow's UI; `path` from its root."""
    root: str = request.scope.get("root_path", "")
    return None if path is None else f"{root.removesuffix(PREFIX)}{path}"


def route_path(request: Request) -> str:
    """What was asked for, below the prefix."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))
