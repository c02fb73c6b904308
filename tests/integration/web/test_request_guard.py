"""No body beyond the limits, and no conf of a `send_*` run that must not be stored, reaches Airflow, over any of its routes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from airflow.api_fastapi.core_api.routes.public import public_router
from airflow.api_fastapi.execution_api.routes import execution_api_router
from airflow.models import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.utils.session import create_session
from fastapi.routing import APIRoute
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from backline.airflow.request_guard import RequestGuard
from backline.messages import registry
from backline.messages.base import MessageType
from backline.web.settings import HttpSettings
from backline_plugin import BacklinePlugin
from tests.integration.web.asgi import arriving, never, request

SECRET = "s3cret-that-nobody-may-see"
RUNS = "/api/v2/dags/send_password_reset/dagRuns"
RESET = {"to": "ann@example.com", "name": "Ann", "token": {"$ref": "password_reset_token", "id": 17}}
NOT_GUARDED = {"/api/v2/assets/{asset_id}/materialize": "runs a DAG that produces an asset; send_* DAGs produce none"}


class Airflow:
    """What reaches Airflow, byte for byte."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def airflow() -> Airflow:
    return Airflow()


@pytest.fixture(scope="module")
def known_dags(airflow_tables: None) -> None:  # noqa: ARG001 - creates the table
    with create_session() as session:
        session.merge(DagBundleModel(name="dags"))
        session.flush()
        for dag_id in ("send_order_reminders", "my_job"):
            session.merge(DagModel(dag_id=dag_id, bundle_name="dags", fileloc="x.py"))  # type: ignore[no-untyped-call]


@pytest.fixture
def client(known_dags: None, airflow: Airflow) -> TestClient:  # noqa: ARG001 - are in the table
    return TestClient(RequestGuard(airflow), headers={"Authorization": "Bearer x"})


def routes_with_a_conf() -> Iterator[str]:
    """Paths of all routes of Airflow's APIs whose body has a conf."""
    for prefix, router in (("", public_router), ("/execution", execution_api_router)):
        for route in router.routes:
            if isinstance(route, APIRoute) and route.methods & {"POST", "PUT", "PATCH"} and route.body_field:
                annotation = route.body_field.field_info.annotation
                models = (annotation, *get_args(annotation))  # an optional body is a union
                if any({"conf", "dag_run_conf"} & set(getattr(model, "model_fields", {})) for model in models):
                    yield prefix + route.path


@pytest.mark.parametrize("path", sorted({*routes_with_a_conf()} - {*NOT_GUARDED}))
def test_each_route_of_airflow_that_takes_a_conf_is_guarded(client: TestClient, airflow: Airflow, path: str) -> None:
    for name in ("conf", "dag_run_conf"):
        body = {"dag_id": "send_password_reset", name: {**RESET, "tokn": SECRET}}
        url = path.format(dag_id="send_password_reset", run_id="r1")
        answer = client.post(url, json=body)
        assert answer.status_code == 400, url
        assert SECRET not in answer.text
    assert airflow.bodies == []


def test_the_routes_are_found() -> None:
    found = {*routes_with_a_conf()}
    assert {"/api/v2/dags/{dag_id}/dagRuns", "/api/v2/backfills", "/execution/dag-runs/{dag_id}/{run_id}"} <= found
    assert set(NOT_GUARDED) <= found


@pytest.mark.parametrize("kind", registry.all_types(), ids=lambda kind: kind.type_name)
def test_each_type_refuses_unknown_keys_and_plaintext_secrets(
    client: TestClient, airflow: Airflow, kind: type[MessageType]
) -> None:
    url = f"/api/v2/dags/send_{kind.type_name}/dagRuns"
    for conf in ({"tokn": SECRET}, *({name: SECRET} for name in kind.secret_fields)):
        answer = client.post(url, json={"conf": conf, "logical_date": None})
        [name] = conf
        assert (answer.status_code, answer.json()["detail"].startswith(f"conf: {name}: is ")) == (400, True)
        assert SECRET not in answer.text
    assert airflow.bodies == []
    assert client.post(url, json={"conf": dict(kind.example)}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (RUNS, {"conf": RESET, "logical_date": None, "note": "x" * 100_000}),
        (RUNS, {"logical_date": None}),
        (RUNS, {"conf": None}),
        ("/api/v2/dags/my_job/dagRuns", {"conf": ["tokn"]}),
        (RUNS, [1]),
        ("/api/v2/dags/send_order_reminders/dagRuns", {"conf": {"anything": 1}}),
        ("/api/v2/dags/my_job/dagRuns", {"conf": {"tokn": SECRET}}),
        ("/api/v2/backfills", {"dag_id": "my_job", "dag_run_conf": {"tokn": SECRET}}),
        (f"{RUNS}/r1/clear", {"conf": {"tokn": 1}}),
    ],
)
def test_every_other_request_passes_unchanged(client: TestClient, airflow: Airflow, path: str, body: Any) -> None:
    text = json.dumps(body).encode()
    assert client.post(path, content=text).status_code == 200
    assert airflow.bodies == [text]


@pytest.mark.parametrize("name", ["conf", "dag_run_conf"])
@pytest.mark.parametrize("conf", [SECRET, [{"token": SECRET}], 1])
def test_a_conf_that_is_no_object_is_refused(client: TestClient, airflow: Airflow, name: str, conf: object) -> None:
    answer = client.post(RUNS, json={name: conf})
    assert (answer.status_code, answer.json()["detail"].startswith(f"{name}: must be an object")) == (400, True)
    assert airflow.bodies == []


UNSTORABLE = {
    "[" * 300 + "]" * 300: "nested more than 100",
    '"a\\u0000"': "NUL",
    '{"\\ud800": 1}': "half a surrogate",
    str(2**63): "64 bits",
    "1e400": "not finite",
    "NaN": "not finite",
}


@pytest.mark.parametrize("path", [RUNS, "/api/v2/dags/my_job/dagRuns", "/execution/dag-runs/my_job/r1"])
@pytest.mark.parametrize(("value", "problem"), UNSTORABLE.items(), ids=[*UNSTORABLE.values()])
def test_a_value_that_airflow_cannot_keep_is_refused(
    client: TestClient, airflow: Airflow, path: str, value: str, problem: str
) -> None:
    answer = client.post(path, content=f'{{"logical_date": null, "conf": {{"data": {value}}}}}')
    assert (answer.status_code, problem in answer.json()["detail"]) == (400, True)
    assert airflow.bodies == []


def test_a_key_beside_the_conf_is_refused(client: TestClient, airflow: Airflow) -> None:
    answer = client.post(RUNS, json={"logical_date": None, "token": SECRET})
    assert (answer.status_code, answer.json()["detail"]) == (
        400, "token: is not known; put the message's fields into conf",
    )  # fmt: skip
    assert airflow.bodies == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v2/dags/SEND_mfa_code/dagRuns", {"logical_date": None}),
        ("/api/v2/dags/send_mfa_cod/dagRuns", {"logical_date": None}),
        ("/api/v2/backfills", {"dag_id": "send_mfa_cod", "from_date": "2026-01-01"}),
        ("/execution/dag-runs/send_mfa_cod/r1", {"run_after": None}),
    ],
)
def test_a_run_of_an_unknown_dag_passes_without_what_may_be_secret(
    client: TestClient, airflow: Airflow, path: str, body: dict[str, Any]
) -> None:
    for conf in ({"code": SECRET}, SECRET):
        client.post(path, json={**body, "conf": conf, "dag_run_conf": conf, "note": SECRET, "code": SECRET})
    assert [json.loads(passed) for passed in airflow.bodies] == [body] * 2


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b""])
def test_what_is_not_json_is_refused(client: TestClient, airflow: Airflow, body: bytes) -> None:
    assert client.post(RUNS, content=body).status_code == 400
    assert airflow.bodies == []


@pytest.mark.parametrize(
    ("path", "login", "limit"),
    [
        ("/auth/token", "Bearer x", "64 KiB"),
        ("/auth/token", None, "64 KiB"),
        ("/api/v2/variables", None, "64 KiB"),
        ("/api/v2/variables", "Bearer x", "32 MiB"),
        (RUNS, "Bearer x", "32 MiB"),
        ("/execution/xcoms/a/b/c/d", "Bearer x", "32 MiB"),
        ("/no/such/path", None, "64 KiB"),
    ],
)
def test_a_body_over_the_limit_is_refused(
    client: TestClient, airflow: Airflow, path: str, login: str | None, limit: str
) -> None:
    if login is None:
        del client.headers["authorization"]
    size = int(limit.split(maxsplit=1)[0]) * 2 ** (10 if "KiB" in limit else 20)

    def chunks() -> Iterator[bytes]:
        yield from (b" " * 2**14 for _ in range(size // 2**14 + 1))

    for content in (b" " * (size + 1), chunks()):
        answer = client.put(path, content=content)
        assert (answer.status_code, limit in answer.json()["detail"]) == (413, True)
    assert airflow.bodies == []
    assert client.put(path, content=b" " * size).status_code == 200


def test_a_body_that_stops_arriving_is_refused(airflow: Airflow) -> None:
    guard = RequestGuard(airflow, HttpSettings(body_timeout_seconds=0.1))
    answer = asyncio.run(request(guard, "POST", "/auth/token", {}, arriving(b"{", then=never)))
    assert answer.status == 408
    assert airflow.bodies == []


def test_it_is_installed() -> None:
    assert [entry["middleware"] for entry in BacklinePlugin().fastapi_root_middlewares] == [RequestGuard]
