"""Guards Airflow's own routes: their bodies are bounded, and a `send_*` run's conf is refused if it must not be stored.

Airflow reads a body of any length, also before the login. It checks declared Params only, keeps undeclared keys, and writes the
body of each request, a refused one too, into its audit log, which every Viewer may read. Its plugins may add middleware to the
whole api-server, so this sees the requests of its pages, of programs, and of tasks. `airflow dags trigger` writes to the database
itself: there only Params refuse plaintext secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from math import isfinite
from typing import cast

from airflow.api_fastapi.core_api.datamodels.backfills import BackfillPostBody
from airflow.api_fastapi.core_api.datamodels.dag_run import TriggerDAGRunPostBody
from airflow.api_fastapi.execution_api.datamodels.dagrun import TriggerDAGRunPayload
from airflow.models import DagModel
from airflow.utils.session import create_session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backline.errors import InvalidInput
from backline.messages.base import MessageType
from backline.messages.fields import MAX_DEPTH
from backline.messages.run_conf import MAX_KEY_LENGTH, check_before_storing, type_of_dag
from backline.settings import settings
from backline.web.bodies import METHODS_WITHOUT_BODY
from backline.web.limits import RequestLimits
from backline.web.problems import ApiError
from backline.web.roles import LARGE_BODY_BYTES, SMALL_BODY_BYTES
from backline.web.settings import HttpSettings
from backline.web.urls import PREFIX

_LOGIN = "/auth/"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_RUN = re.compile(
    r"/api/v2/dags/(?P<dag>[^/]+)/dagRuns/?|/execution/dag-runs/(?P<triggered>[^/]+)/[^/]+/?|/api/v2/backfills(/dry_run)?/?"
)
_CONF_KEYS = frozenset({"conf", "dag_run_conf"})
_REQUEST_KEYS = frozenset(
    {*TriggerDAGRunPostBody.model_fields, *BackfillPostBody.model_fields, *TriggerDAGRunPayload.model_fields}
)
_HARMLESS_KEYS = _REQUEST_KEYS - _CONF_KEYS - {"note"}


class RequestGuard:
    """Answers 413, 408 or 503 for a body beyond the limits, 400 for such a conf; other requests pass unchanged.

    Except a request to run a DAG that does not exist: it passes without its conf, because a mistyped DAG id may come with a secret.
    """

    def __init__(self, app: ASGIApp, config: HttpSettings | None = None) -> None:
        self._app = app
        self._limits = RequestLimits(config or settings().section(HttpSettings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] != "http" or scope["method"] in METHODS_WITHOUT_BODY or _path(scope).startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)  # Backline's own API reads bodies within limits of its own
            return
        async with AsyncExitStack() as stack:
            try:
                body = await stack.enter_async_context(self._bounded_body(Request(scope, receive)))
                if scope["method"] == "POST" and (run := _RUN.fullmatch(_path(scope))):
                    body = await self._check_run(run["dag"] or run["triggered"], body)
            except (ApiError, InvalidInput) as exc:
                await _refusal(exc)(scope, receive, send)
                return
            await self._app(scope, _replay(body, receive), send)

    def _bounded_body(self, request: Request) -> AbstractAsyncContextManager[bytes]:
        # Whether a login is valid is Airflow's to find out; until then it only counts that there is one.
        has_login = "authorization" in request.headers or bool(request.cookies)
        public = _path(request.scope).startswith(_LOGIN) or not has_login
        return self._limits.body(request, SMALL_BODY_BYTES if public else LARGE_BODY_BYTES, public=public)

    async def _check_run(self, dag_id: str | None, body: bytes) -> bytes:
        """The body to pass on; InvalidInput for a conf that must not be stored. What is no such request is for Airflow to refuse."""
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            raise InvalidInput("body", "is not JSON that can be read") from None
        if not isinstance(given, dict):
            return body
        for key in _CONF_KEYS & set(given):
            _check_storable(key, given[key])
        name = dag_id or str(given.get("dag_id"))
        kind = type_of_dag(name)
        if kind is not None:
            _check(kind, given)
            return body
        async with self._limits.turn():
            known = await run_in_threadpool(is_known_dag, name)
        return body if known else json.dumps({key: given[key] for key in _HARMLESS_KEYS & set(given)}).encode()


def is_known_dag(dag_id: str) -> bool:
    """Whether Airflow has a DAG of this id."""
    with create_session(scoped=False) as session:
        return session.get(DagModel, dag_id) is not None


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _refusal(exc: ApiError | InvalidInput) -> JSONResponse:
    if isinstance(exc, ApiError):
        return JSONResponse({"detail": exc.detail}, exc.status_code, exc.headers)
    return JSONResponse({"detail": str(exc)}, 400)


def _check(kind: type[MessageType], given: Mapping[str, object]) -> None:
    """InvalidInput for a key that Airflow does not know, which may be a secret's, and for what must not be in the conf."""
    if unknown := sorted(set(given) - _REQUEST_KEYS):
        raise InvalidInput(unknown[0][:MAX_KEY_LENGTH], "is not known; put the message's fields into conf")
    for name in _CONF_KEYS & set(given):
        conf = given[name]
        if isinstance(conf, Mapping):
            try:
                check_before_storing(kind, cast("Mapping[str, object]", conf))
            except InvalidInput as exc:
                raise InvalidInput(f"{name}: {exc.field}", exc.problem) from None
        elif conf is not None:
            raise InvalidInput(name, f"must be an object with the fields of {kind.type_name}")


def _check_storable(field: str, conf: object) -> None:
    """InvalidInput for a value that Airflow accepts, but cannot store or hand to a task."""
    waiting = [(conf, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH + 1:
            raise InvalidInput(field, f"is nested more than {MAX_DEPTH} levels deep; make it flatter")
        if isinstance(value, dict):
            waiting += [(part, depth + 1) for item in value.items() for part in item]
        elif isinstance(value, list):
            waiting += [(part, depth + 1) for part in value]
        elif isinstance(value, str) and _UNSTORABLE.search(value):
            raise InvalidInput(field, "has a NUL or half a surrogate pair in a text; remove it")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidInput(field, "has a whole number of more than 64 bits; give it as text")
        elif isinstance(value, float) and not isfinite(value):
            raise InvalidInput(field, "has a number that is not finite; give it as text")


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what follows it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
