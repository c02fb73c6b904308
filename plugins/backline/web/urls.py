"""URLs of the API and of Airflow's pages, as paths, so that they are valid behind any proxy."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import Request

PREFIX = "/backline"
API = "/api/v1"


def api_url(request: Request, path: str, **query: str) -> str:
    """The URL of an API path: `api_url(request, "messages/17")`."""
    suffix = f"?{urlencode(query)}" if query else ""
    return f"{request.scope.get('root_path', '')}{API}/{path}{suffix}"


def next_url(request: Request, cursor: int | None) -> str | None:
    """This request's URL with another cursor, or None without one."""
    if cursor is None:
        return None
    url = request.url.include_query_params(cursor=cursor)
    return f"{url.path}?{url.query}"


def ui_url(request: Request, path: str | None) -> str | None:
    """The URL of a page of Airflow's UI; `path` is from its root."""
    root: str = request.scope.get("root_path", "")
    return None if path is None else f"{root.removesuffix(PREFIX)}{path}"


def route_path(request: Request) -> str:
    """The request's path below the prefix."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))
