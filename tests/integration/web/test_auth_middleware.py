"""The middleware before the routes: request ids, problems, cross-site protection, size limits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import psycopg
import pytest
from starlette.websockets import WebSocketDisconnect

from backline.outbox import queries
from backline.web.urls import PREFIX
from tests.integration.web.conftest import Api, email

PROBLEM_KEYS = {"type", "title", "status", "detail", "instance", "request_id"}


def chunks(body: bytes) -> Iterator[bytes]:
    """A body without a declared length."""
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


# The request, and the status and type of its problem.
REFUSALS = {
    "nobody": ("GET", "messages", None, {}, 401, "unauthenticated"),
    "too low a role": ("POST", "messages", "viewer", {"json": email()}, 403, "forbidden"),
    "no such path": ("GET", "nothing", "op", {}, 404, "not-found"),
    "no such message": ("GET", "messages/4711", "op", {}, 404, "not-found"),
    "no such group": ("GET", "groups/4711", "op", {}, 404, "not-found"),
    "no such message to cancel": ("POST", "messages/4711/cancel", "op", {}, 404, "not-found"),
    "wrong method": ("DELETE", "messages/1", "op", {}, 405, "wrong-method"),
    "not JSON": ("POST", "messages", "op", {"content": "{", "headers": {"Content-Type": "application/json"}}, 400, "malformed"),
    "not UTF-8": ("POST", "messages", "op", {"content": b'"\xff', "headers": {"Content-Type": "application/json"}}, 400, "malformed"),
    "a form": ("POST", "messages", "op", {"data": {"type": "email"}}, 415, "wrong-media-type"),
    "a wrong id": ("GET", "messages/many", "op", {}, 422, "invalid"),
    "a group's id near the database's highest": ("GET", "groups/9223372036854775806", "op", {}, 422, "invalid"),
    "a number for a time": ("GET", "messages?until=0.5", "op", {}, 422, "invalid"),
    "an id beyond the database's": ("GET", "messages/9223372036854775808", "op", {}, 422, "invalid"),
    "a wrong state": ("GET", "messages?state=lost", "op", {}, 422, "invalid"),
    "a time without zone": ("GET", "messages?since=2026-01-01T00:00:00", "op", {}, 422, "invalid"),
    "a NUL": ("GET", "messages?recipient=a%00b", "op", {}, 422, "invalid"),
    "a wrong key": ("POST", "messages", "op", {"json": email(), "headers": {"Idempotency-Key": "a b"}}, 422, "invalid"),
}  # fmt: skip


@pytest.mark.parametrize(("method", "path", "role", "options", "status", "kind"), REFUSALS.values(), ids=REFUSALS)
def test_every_error_is_a_problem(
    api: Api, method: str, path: str, role: str | None, options: dict[str, object], status: int, kind: str
) -> None:
    answer = api.call(method, path, role, **options)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) - {"errors"} == PROBLEM_KEYS
    assert problem["type"] == f"urn:backline:problem:{kind}"
    assert problem["status"] == status
    assert problem["instance"] == f"{PREFIX}/api/v1/{path.partition('?')[0]}"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert (status == 422) == ("errors" in problem)


# Bodies of routes that FastAPI parses: the content, its type, and the status and a part of the text of the problem.
JSON = "application/json"
BODIES = {
    "a form": (b"reason=x", "application/x-www-form-urlencoded", 415, "Content-Type: application/json"),
    "no type": (b"{}", None, 415, "Content-Type: application/json"),
    "another JSON type": (b"{}", "application/merge-patch+json", 415, "Content-Type: application/json"),
    "not JSON": (b"{", JSON, 400, "not valid JSON"),
    "not UTF-8": (b'{"reason": "\xff"}', JSON, 400, "not valid JSON"),
    "UTF-16": ("{}".encode("utf-16"), JSON, 400, "not valid JSON"),
    "half a character": (b'{"payload": {"text": "\\ud800"}}', JSON, 400, "not valid JSON"),
    "half a character in a name": (b'{"\\ud800": 1}', JSON, 400, "not valid JSON"),
    "too deep": (b'{"payload":' + b'{"a":' * 250 + b"1" + b"}" * 251, JSON, 400, "recursion limit"),
    "much too deep": (b"[" * 40_000, JSON, 400, "recursion limit"),
    "too long a number": (b'{"payload": ' + b"1" * 5000 + b"}", JSON, 400, "not valid JSON"),
    "null": (b"null", JSON, 422, "must be an object, not null"),
    "a list": (b"[]", f"{JSON}; charset=utf-8", 422, "must be an object, not a list"),
    "a wrong field": (b'{"reasons": "x"}', "Application/JSON;charset=utf-8", 422, "is not a known field"),
}


@pytest.mark.parametrize("path", ["messages/1/replay", "webhooks/endpoints/ep_1/disable"])
@pytest.mark.parametrize(("content", "media_type", "status", "word"), BODIES.values(), ids=BODIES)
def test_a_wrong_body_is_a_problem(
    api: Api, path: str, content: bytes, media_type: str | None, status: int, word: str
) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    answer = api.call("POST", path, "op", content=content, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert word in str(answer.json())


@pytest.mark.parametrize(("media_type", "status"), [(JSON, 400), ("text/plain", 415), (None, 415)])
def test_an_empty_body_is_a_problem_unless_it_is_optional(api: Api, media_type: str | None, status: int) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    assert api.call("POST", "webhooks/endpoints/ep_1/disable", "op", headers=headers).status_code == status
    assert api.call("POST", "messages/4711/replay", "op", headers=headers).status_code == 404


def test_at_most_50_wrong_fields_are_listed(api: Api) -> None:
    assert len(api.post("suppressions", {f"field{number}": 1 for number in range(80)}).json()["errors"]) == 50


def test_a_wrong_field_is_named_with_the_fix(api: Api) -> None:
    answer = api.get("messages?limit=0&state=lost").json()
    assert [error["field"] for error in answer["errors"]] == ["state", "limit"]
    assert answer["errors"][1]["detail"] == "input should be greater than or equal to 1"


def test_a_wrong_method_lists_the_allowed_ones(api: Api) -> None:
    answer = api.call("DELETE", "messages", "op")
    assert answer.headers["allow"] == "GET, POST"
    assert answer.json()["detail"] == "DELETE is not allowed here; use GET, POST"


def test_an_unexpected_error_is_a_problem_without_details(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("token 4711")

    monkeypatch.setattr(queries, "get_message", fail)
    with caplog.at_level(logging.ERROR, "backline.web.auth_middleware"):
        answer = api.get("messages/1")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:backline:problem:unexpected"
    assert "4711" not in answer.text + caplog.text
    assert "RuntimeError" in caplog.text


def test_an_unavailable_database_is_a_503_with_retry_after(make_api: Callable[..., Api]) -> None:
    away = make_api(
        "host=127.0.0.1 port=1 user=nobody dbname=none",
    )
    away.app.state.connections._config = away.app.state.config.model_copy(update={"pool_timeout_seconds": 0.3})
    assert away.get(f"{PREFIX}/livez", None).json() == {"status": "ok"}
    answer = away.get("messages/1")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert "127.0.0.1" not in answer.text


@pytest.mark.parametrize("given", ["order-1042", "b3f6c1e2-8f7a-4b57-9a5e-0d1f6b0c9d11", "a" * 128])
def test_a_request_id_is_kept(api: Api, given: str) -> None:
    answer = api.post("messages", email(), headers={"X-Request-ID": given})
    assert answer.headers["x-request-id"] == given
    assert answer.json()["request_id"] == given
    assert api.sql("SELECT request_id FROM backline.message")[0]["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "line\tbreak", "ä".encode()])
def test_an_invalid_request_id_is_replaced(api: Api, given: str | bytes) -> None:
    answer = api.get("messages", headers={"X-Request-ID": given})
    assert len(answer.headers["x-request-id"]) == 32


def test_a_request_id_is_bound_to_the_logs(api: Api) -> None:
    import structlog

    seen = []

    def look(*_: object) -> None:
        seen.append(structlog.contextvars.get_contextvars()["request_id"])
        raise RuntimeError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, "get_message", look)
        api.get("messages/1", headers={"X-Request-ID": "r-17"})
    assert seen == ["r-17"]


# Headers of a browser whose user is logged in, and whether its change is accepted.
ORIGINS = {
    "our page": ({"Sec-Fetch-Site": "same-origin"}, True),
    "another site": ({"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"}, False),
    "a sister domain": ({"Sec-Fetch-Site": "same-site"}, False),
    "typed by the user": ({"Sec-Fetch-Site": "none"}, False),
    "our page in an old browser": ({"Origin": "http://testserver"}, True),
    "another site in an old browser": ({"Origin": "http://evil.example"}, False),
    "a site that begins like ours": ({"Origin": "http://testserver.evil.example"}, False),
    "a page without origin": ({"Origin": "null"}, False),
    "no proof": ({}, False),
}


@pytest.mark.parametrize(("headers", "taken"), ORIGINS.values(), ids=ORIGINS)
def test_a_browsers_change_needs_the_same_origin(api: Api, headers: dict[str, str], *, taken: bool) -> None:
    api.client.cookies.set("_token", api.tokens["op"])
    answer = api.post("messages", email(), None, headers=headers)
    assert answer.status_code == (202 if taken else 403)
    assert len(api.sql("SELECT id FROM backline.message")) == taken


def test_a_browsers_read_and_a_programs_change_need_no_origin(api: Api) -> None:
    api.client.cookies.set("_token", api.tokens["op"])
    assert api.get("messages", None).status_code == 200
    assert api.post("messages", email(), "op", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 202


def test_a_websocket_is_refused(api: Api) -> None:
    with pytest.raises(WebSocketDisconnect), api.client.websocket_connect(f"{PREFIX}/livez"):
        pass


def test_a_body_that_is_too_large_is_refused_before_it_is_read_whole(make_api: Callable[..., Api]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKLINE__HTTP__MAX_BODY_MIB", "0.01")
        from backline.settings import settings

        settings.cache_clear()
        api = make_api()
        settings.cache_clear()
    text = b'{"type": "email", "to": "' + b"a" * 11_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    for content in (text, chunks(text)):
        answer = api.call("POST", "messages", "op", content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["type"] == "urn:backline:problem:too-large"
        assert "http.max_body_mib" in answer.json()["detail"]
    assert api.post("messages", email()).status_code == 202


def test_readiness_follows_the_database(make_api: Callable[..., Api], database: str, empty_database: str) -> None:
    from backline.web import health

    ready = make_api(database)
    assert health.is_ready(ready.app.state.connections)
    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM backline.migration WHERE number = (SELECT max(number) FROM backline.migration)")
    assert not health.is_ready(ready.app.state.connections)
    assert not health.is_ready(make_api(empty_database).app.state.connections)


def test_readyz_gives_no_details(make_api: Callable[..., Api], empty_database: str) -> None:
    answer = make_api(empty_database).get(f"{PREFIX}/readyz", None)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "Not ready"
