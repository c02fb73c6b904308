"""What requests may use: bodies are read late, in time and within limits; searches leave threads to Airflow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import cast

import psycopg
import pytest
from fastapi import FastAPI
from starlette.types import Message

from backline.settings import settings
from backline.web.limits import MAX_PUBLIC_BODIES_BYTES
from backline.web.roles import EVENT_BODY_BYTES
from backline.web.settings import HookSettings
from backline.web.urls import PREFIX
from tests.integration.web.asgi import Answer, arriving, never, request, unread
from tests.integration.web.conftest import API, Api, email

HOOK = f"{PREFIX}/hooks/sendgrid"
JSON = {"Content-Type": b"application/json"}
MIB = 2**20


@pytest.fixture
def set_up(make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Api]]:
    """Creates the app with other settings of [http]."""

    def make(**given: object) -> Api:
        for name, value in given.items():
            monkeypatch.setenv(f"BACKLINE__HTTP__{name.upper()}", str(value))
        settings.cache_clear()
        return make_api()

    yield make
    monkeypatch.undo()
    settings.cache_clear()


def login(api: Api, role: str) -> dict[str, bytes]:
    return JSON | {"Authorization": f"Bearer {api.tokens[role]}".encode()}


def free(api: Api) -> dict[bool, int]:
    return dict(api.app.state.limits._free_bytes)


@pytest.mark.parametrize("name", ["ses", "sendgrid", "mailgun", "twilio", "stripe", "razorpay"])
def test_a_closed_hook_answers_before_it_reads_a_body(api: Api, name: str) -> None:
    api.app.state.hooks = HookSettings()
    answer = asyncio.run(request(api.client.app, "POST", f"{PREFIX}/hooks/{name}", {}, unread))
    assert (answer.status, answer.json()["detail"]) == (404, "This hook is not enabled")


def test_too_low_a_role_an_unknown_path_and_a_declared_length_are_refused_before_a_body_is_read(api: Api) -> None:
    async def statuses() -> list[int]:
        declared = login(api, "op") | {"Content-Length": b"99999999999999999999"}
        answers = [
            await request(api.client.app, "POST", f"{API}/messages", login(api, "viewer"), unread),
            await request(api.client.app, "POST", f"{API}/nothing", login(api, "op"), unread),
            await request(api.client.app, "POST", f"{API}/messages", {}, unread),
            await request(api.client.app, "POST", f"{API}/messages", declared, unread),
        ]
        return [answer.status for answer in answers]

    assert asyncio.run(statuses()) == [403, 404, 401, 413]


def test_a_body_that_does_not_arrive_is_a_408(set_up: Callable[..., Api]) -> None:
    api = set_up(body_timeout_seconds=0.1)
    before = free(api)
    sent = arriving(b'{"type"', then=never)
    answer = asyncio.run(request(api.client.app, "POST", f"{API}/messages", login(api, "op"), sent))
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert "http.body_timeout_seconds" in answer.json()["detail"]
    assert free(api) == before


@pytest.mark.parametrize(("path", "limit"), [("suppressions", 64 * 1024), ("messages", 32 * MIB)])
def test_a_longer_body_is_a_413_that_names_the_limit(api: Api, path: str, limit: int) -> None:
    before = free(api)
    sent = arriving(*[b" " * 65_536] * (limit // 65_536), b"{")
    answer = asyncio.run(request(api.client.app, "POST", f"{API}/{path}", login(api, "op"), sent))
    assert answer.status == 413
    assert ("64 KiB" in answer.json()["detail"]) == (path == "suppressions")
    assert free(api) == before


def test_a_client_that_leaves_gives_its_bytes_back(api: Api) -> None:
    before = free(api)
    answer = asyncio.run(
        request(api.client.app, "POST", f"{API}/messages", login(api, "op"), arriving(b"{", then=gone))
    )
    assert answer.status == 400
    assert free(api) == before


async def gone() -> Message:
    return {"type": "http.disconnect"}


def test_half_sent_bodies_without_a_login_are_bounded_and_leave_room(set_up: Callable[..., Api]) -> None:
    api = set_up(body_timeout_seconds=2)
    api.app.state.hooks = HookSettings(sendgrid_public_key="key")
    fitting = MAX_PUBLIC_BODIES_BYTES // EVENT_BODY_BYTES

    async def send() -> tuple[list[Answer], Answer]:
        half = [
            asyncio.ensure_future(
                request(api.client.app, "POST", HOOK, {}, arriving(b" " * EVENT_BODY_BYTES, then=never))
            )
            for _ in range(fitting + 10)
        ]
        refused = await asyncio.gather(*half[fitting:])
        body = b'{"type":"email","to":"ann@example.com","payload":{"subject":"Hi","text":"Hi"}}'
        known = await request(api.client.app, "POST", f"{API}/messages", login(api, "op"), arriving(body))
        assert {one.done() for one in half[:fitting]} == {False}
        assert {answer.status for answer in await asyncio.gather(*half[:fitting])} == {408}
        return refused, known

    before = free(api)
    refused, known = asyncio.run(send())
    assert known.status == 202
    assert {(answer.status, answer.headers["retry-after"]) for answer in refused} == {(503, "2")}
    assert "http.max_bodies_mib" in refused[0].json()["detail"]
    assert free(api) == before


def test_slow_searches_leave_threads_to_neighbours_and_time_out_in_the_queue(
    set_up: Callable[..., Api], shared_database: str
) -> None:
    api = set_up(max_concurrent_requests=16, pool_timeout_seconds=3, search_timeout_seconds=10, lock_timeout_seconds=10)
    neighbour = cast("FastAPI", api.client.app)
    neighbour.add_api_route("/neighbour", lambda: "healthy")  # not async: in a thread

    async def ask() -> tuple[list[float], list[Answer]]:
        searches = [
            asyncio.ensure_future(request(neighbour, "GET", f"{API}/messages", login(api, "viewer"))) for _ in range(44)
        ]
        times = [time.monotonic()]
        while not any(one.done() for one in searches):
            assert (await request(neighbour, "GET", "/neighbour")).status == 200
            assert (await request(neighbour, "GET", f"{PREFIX}/livez")).status == 200
            times.append(time.monotonic())
            await asyncio.sleep(0.05)
        locked.rollback()
        return times, await asyncio.gather(*searches)

    with psycopg.connect(shared_database) as locked:
        locked.execute("LOCK TABLE backline.message IN ACCESS EXCLUSIVE MODE")
        times, answers = asyncio.run(ask())
    assert len(times) > 5
    assert max(later - earlier for earlier, later in pairwise(times[1:])) < 1  # the first has all the logins
    refused = [answer for answer in answers if answer.status != 200]
    assert {(answer.status, answer.headers["retry-after"]) for answer in refused} == {(503, "2")}
    assert any("http.max_concurrent_requests" in answer.json()["detail"] for answer in refused)
    assert api.get("messages").status_code == 200


HOSTILE = {
    "a long name": email(f"{'x' * 3 * MIB} <ann@example.com>"),
    "unknown fields": email() | {f"{number}{'y' * 50}": 1 for number in range(50_000)},
    "some unknown fields": email() | {f"{number}{'y' * 5_000}": 1 for number in range(500)},
    "unknown fields of a payload": email(payload={f"{number}{'y' * 50}": 1 for number in range(50_000)}),
    "some unknown fields of a payload": email(payload={f"{number}{'y' * 5_000}": 1 for number in range(500)}),
    "a long type": email() | {"type": "t" * MIB},
    "long headers": email(payload={"subject": "s", "text": "t", "headers": {"x" * MIB: "y"}}),
    "a batch": [email(f"{'x' * 5000} <ann@example.com>")] * 500,
    "a batch of wrong fields": [email(priority="high", lane=5, due_at=1)] * 1000,
    "a long lane": email(lane="l" * MIB),
}  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_problem_is_short_whatever_the_request(api: Api, body: object) -> None:
    answer = api.post("messages", body)
    assert answer.status_code == 422
    assert len(answer.content) < 64 * 1024
    assert len(answer.json()["detail"]) <= 1000
    assert len(answer.json().get("errors") or ()) <= 50


def test_json_of_very_many_values_is_refused_before_it_is_parsed(api: Api) -> None:
    answer = api.call(
        "POST", "messages", content=b"[" + b"0," * 600_000 + b"0]", headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert "500,000 values" in answer.json()["detail"]
