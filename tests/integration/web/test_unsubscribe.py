"""The link in an email, opened by its recipient, by a mail program's button and by link scanners."""

from __future__ import annotations

import re
from typing import Any

import pytest
from httpx import Response

from backline.encryption import Encryptor
from backline.outbox import queries
from backline.preferences.unsubscribe import Subscription, create_token
from backline.web.urls import PREFIX
from tests.integration.web.conftest import FERNET_KEY, Api

ONE_CLICK = {"List-Unsubscribe": "One-Click"}


@pytest.fixture
def message(api: Api) -> int:
    [row] = api.sql(
        'SELECT backline.enqueue(\'email\', \'Ann@example.com\', \'{"subject": "News", "text": "Hi", "topic": "newsletter"}\') AS id'
    )
    return int(row["id"])


def unsubscribe_path(message_id: int | None = None, topic: str = "newsletter", key: str = FERNET_KEY) -> str:
    made = create_token(Subscription("email", "ann@example.com", topic, message_id), Encryptor([key]))
    return f"{PREFIX}/unsubscribe/{made}"


def opt_outs(api: Api) -> list[tuple[str, str, str]]:
    rows = api.sql("SELECT address, topic, source FROM backline.opt_out ORDER BY topic")
    return [(row["address"], row["topic"], row["source"]) for row in rows]


def post(api: Api, path: str, data: dict[str, str] | None = None, **options: Any) -> Response:
    return api.call("POST", path, None, data=data, **options)


def heading(answer: Response) -> str:
    found = re.search(r"<h1>(.*?)</h1>", answer.text)
    assert found
    return found[1]


def test_a_get_changes_nothing(api: Api, message: int) -> None:
    answer = api.get(unsubscribe_path(message), None)
    assert answer.status_code == 200
    assert heading(answer) == "Unsubscribe from “Newsletter”?"
    assert "a…@example.com" in answer.text
    assert "ann@example.com" not in answer.text.lower()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert "script" not in answer.text
    assert opt_outs(api) == []


def test_one_click_opts_out_without_cookie_or_login(api: Api, message: int) -> None:
    api.client.cookies.clear()
    assert post(api, unsubscribe_path(message), ONE_CLICK).status_code == 200
    assert opt_outs(api) == [("ann@example.com", "newsletter", "link")]
    found = queries.get_message(api.connection, message)
    assert found is not None
    assert [event.text for event in found.timeline if event.event == "unsubscribed"] == [
        "the recipient unsubscribed (ann@example.com) (topic newsletter)"
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"files": {"List-Unsubscribe": (None, "One-Click")}},  # multipart, as RFC 8058 allows
        {"content": b"List-Unsubscribe=One-Click", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"content": b""},
        {"data": {"action": "nonsense"}},
        {"content": b"\xff\x00"},
        {"data": ONE_CLICK, "headers": {"Origin": "https://mail.example", "Sec-Fetch-Site": "cross-site"}},
    ],
)
def test_one_click_in_any_encoding(api: Api, options: dict[str, Any]) -> None:
    assert api.call("POST", unsubscribe_path(), None, **options).status_code == 200
    assert [topic for _, topic, _ in opt_outs(api)] == ["newsletter"]


def test_opting_out_twice_has_no_further_effect(api: Api, message: int) -> None:
    for _ in range(3):
        assert heading(post(api, unsubscribe_path(message), ONE_CLICK)) == "You are unsubscribed from “Newsletter”"
    assert len(opt_outs(api)) == 1
    assert len(api.sql("SELECT 1 AS one FROM backline.delivery_event")) == 1
    assert heading(api.get(unsubscribe_path(), None)) == "You are unsubscribed from “Newsletter”"


def test_opting_out_of_everything_can_be_undone(api: Api, message: int) -> None:
    assert (
        heading(post(api, unsubscribe_path(message), {"action": "opted_out"}))
        == "You are unsubscribed from “Newsletter”"
    )
    assert (
        heading(post(api, unsubscribe_path(message), {"action": "opted_out_all"}))
        == "You are unsubscribed from everything"
    )
    assert [topic for _, topic, _ in opt_outs(api)] == ["*", "newsletter"]
    assert heading(post(api, unsubscribe_path(message), {"action": "opted_in"})) == "Good to have you back"
    assert opt_outs(api) == []
    assert [row["event"] for row in api.sql("SELECT event FROM backline.delivery_event ORDER BY id")] == [
        "unsubscribed", "unsubscribed", "resubscribed",
    ]  # fmt: skip


def test_the_page_is_in_the_browsers_language(api: Api) -> None:
    def asked(language: str) -> str:
        return heading(api.get(unsubscribe_path(), None, headers={"Accept-Language": language}))

    assert asked("de-AT,de;q=0.9,en;q=0.8") == "„Newsletter“ abbestellen?"
    assert asked("fr, en;q=0.5") == "Unsubscribe from “Newsletter”?"
    assert asked("fr") == asked("") == "Unsubscribe from “Newsletter”?"


@pytest.mark.parametrize("language", ["en", "de"])
def test_every_state_of_the_page_has_its_heading(api: Api, language: str) -> None:
    headers = {"Accept-Language": language}
    seen = [heading(api.get(unsubscribe_path(), None, headers=headers))]
    seen += [
        heading(post(api, unsubscribe_path(), {"action": action}, headers=headers))
        for action in ("opted_out", "opted_out_all", "opted_in")
    ]
    seen.append(heading(api.get(f"{PREFIX}/unsubscribe/nonsense", None, headers=headers)))
    assert len(set(seen)) == 5


def test_a_removed_topic_can_still_be_opted_out_of(api: Api) -> None:
    assert (
        heading(post(api, unsubscribe_path(topic="old_offers"), ONE_CLICK)) == "You are unsubscribed from “old_offers”"
    )


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_incomplete_link_is_reported_and_changes_nothing(api: Api, method: str) -> None:
    foreign = unsubscribe_path(key="bm90LWEtc2VjcmV0LWJ1dC1vZi0zMi1ieXRlcy1sZW4=")
    for path in (unsubscribe_path()[:-3], foreign, f"{PREFIX}/unsubscribe/x"):
        answer = api.call(method, path, None)
        assert answer.status_code == 404
        assert heading(answer) == "This link is not complete"
    assert opt_outs(api) == []


def test_a_link_gives_no_access_to_other_paths(api: Api) -> None:
    assert api.call("GET", f"{PREFIX}/unsubscribe/../api/v1/messages", None).status_code == 401
    assert api.call("GET", f"{PREFIX}/unsubscribe", None).status_code == 401
