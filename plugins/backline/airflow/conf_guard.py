"""Refuses a `send_*` run whose conf must not be stored, before Airflow's API stores or logs any of it.

Airflow checks declared Params only, keeps undeclared keys, and writes the body of each request, a refused one too, into its
audit log. Its plugins may add middleware to the whole api-server, so this sees the requests of its pages, of programs, and of
tasks that trigger runs. `airflow dags trigger` writes to the database itself: there only Params refuse plaintext secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import cast

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backline.errors import InvalidInput
from backline.messages.run_conf import check_before_storing, type_of_dag
from backline.settings import settings
from backline.web.settings import HttpSettings

_NEW_RUN = re.compile(r"/api/v2/dags/(?P<dag>[^/]+)/dagRuns/?|/execution/dag-runs/(?P<triggered>[^/]+)/[^/]+/?")
_BACKFILL = re.compile(r"/api/v2/backfills(/dry_run)?/?")


class RunConfMiddleware:
    """Answers 400 for such a run; every other request passes unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        new_run = _NEW_RUN.fullmatch(path)
        dag_id = new_run and (new_run["dag"] or new_run["triggered"])
        if not (type_of_dag(dag_id) if dag_id else _BACKFILL.fullmatch(path)):
            await self._app(scope, receive, send)
            return
        body = await _read_body(receive, int(settings().section(HttpSettings).max_body_mib * 2**20))
        if body is None:
            response = JSONResponse({"detail": "The request is too large (http.max_body_mib)"}, 413)
            await response(scope, receive, send)
            return
        try:
            _check(dag_id, body)
        except InvalidInput as exc:
            await JSONResponse({"detail": f"conf: {exc}"}, 400)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


def _check(dag_id: str | None, body: bytes) -> None:
    """InvalidInput for a conf that must not be stored; what is no such request is for Airflow to refuse."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("body", "is not JSON that can be read") from None
    if not isinstance(given, Mapping):
        return
    kind = type_of_dag(dag_id or str(given.get("dag_id")))
    for conf in (given.get("conf"), given.get("dag_run_conf")):
        if kind is not None and isinstance(conf, Mapping):
            check_before_storing(kind, cast("Mapping[str, object]", conf))


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None if it is over the limit, in bytes. A client that goes away ends it."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what follows it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
