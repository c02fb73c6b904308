"""Messages over HTTP, from the request to the row and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from backline.messages import registry
from backline.messages.sync import sync_types
from backline.outbox import queries, submission
from backline.web.urls import PREFIX
from tests.integration.web.conftest import FERNET_KEY, Api, email

TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).isoformat()


def rows(api: Api) -> list[dict[str, Any]]:
    return api.sql("SELECT * FROM backline.message ORDER BY id")


def finish(api: Api, message_id: int, state: str, error_class: str | None = None) -> None:
    """Finalize a message as a dispatcher does, with its attempt."""
    api.sql(
        "UPDATE backline.message SET state = %s, finalized_at = clock_timestamp(), attempt = 1, error_class = %s,"
        " payload = payload - (SELECT secret_fields FROM backline.message_type WHERE name = type) WHERE id = %s",
        state, error_class, message_id,
    )  # fmt: skip
    api.sql(
        "INSERT INTO backline.attempt (message_id, number, started_at, duration_ms, outcome, error_class, code, response,"
        " dispatcher, dag_run) VALUES (%s, 1, clock_timestamp(), 7.5, %s, %s, '250', '250 Ok', 1, 'dispatch_email/run 1')",
        message_id, state, error_class,
    )  # fmt: skip


@contextmanager
def open_transaction(api: Api) -> Iterator[psycopg.Connection[Any]]:
    """The app's own transaction. The server ends it if a request waits for it for long: then the test fails."""
    info = api.connection.info
    limit = "-c idle_in_transaction_session_timeout=10s"
    with psycopg.connect(info.dsn, password=info.password, options=limit) as connection:
        yield connection


def change_type(api: Api, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The type `welcome` with other class variables, in the database too."""
    kind = registry.get("welcome")
    for name, value in changes.items():
        monkeypatch.setattr(kind, name, value)
    sync_types(api.connection)


def test_one_message_is_accepted_unchanged(api: Api) -> None:
    answer = api.post(
        "messages",
        email("Ann <ann@example.com>", due_at=TOMORROW, priority=9, lane="email.bulk", request_id="order-1042"),
    )
    assert answer.status_code == 202
    [row] = rows(api)
    assert answer.json()["messages"] == [{"id": row["id"], "url": f"/backline/api/v1/messages/{row['id']}"}]
    assert answer.headers["location"] == f"/backline/api/v1/messages/{row['id']}"
    assert (row["type"], row["recipient"], row["lane"]) == ("email", "Ann <ann@example.com>", "email.bulk")
    assert (row["priority"], row["state"], row["request_id"]) == (9, "scheduled", "order-1042")
    assert row["due_at"] == datetime.fromisoformat(TOMORROW)
    assert row["payload"] == {"subject": "Hello", "text": "Hi"}


def test_a_batch_of_different_types_is_accepted_in_order(api: Api) -> None:
    given = [
        email(f"r{number}@example.com", priority=number % 3 + 1)
        if number % 2
        else {"type": "welcome", "to": f"r{number}@example.com", "payload": {"name": f"Reader {number}"}}
        for number in range(1000)
    ]
    answer = api.post("messages", given, headers={"X-Request-ID": "batch-1"})
    assert answer.status_code == 202
    ids = [one["id"] for one in answer.json()["messages"]]
    found = {row["id"]: row for row in rows(api)}
    assert len(found) == 1000
    assert [(found[i]["type"], found[i]["recipient"]) for i in ids] == [(one["type"], one["to"]) for one in given]
    assert [found[i]["priority"] for i in ids] == [one.get("priority", 5) for one in given]
    assert answer.headers["location"] == "/backline/api/v1/messages?request_id=batch-1"
    listed = api.get(answer.headers["location"], params={"limit": 500}).json()
    assert len(listed["messages"]) == 500


# Bodies that are refused: index and field of the wrong message, and a part of the text.
BAD = {
    "a type that is not known": ([email(), {**email(), "type": "telegram"}], 1, "type", "known types"),
    "a recipient that is none": ([email(), email(), email("ann")], 2, "to", "@-sign"),
    "no recipient": ([{"type": "email", "payload": {}}], 0, "to", "is required"),
    "a recipient a channel, for one channel": ([email({"email": "ann@example.com"})], 0, "to", "an email address"),  # type: ignore[arg-type]
    "a payload's field": ([email(), email(payload={"subject": "x" * 501, "text": "t"})], 1, "payload.subject", "too long"),
    "a payload's field within": ([email(payload={"subject": "s", "text": "t", "cc": ["x"]})], 0, "payload.cc[0]", "too short"),
    "a payload that is none": ([email(payload=["x"])], 0, "payload", "an object"),
    "a NUL": ([email(payload={"subject": "s", "text": "a\0b"})], 0, "payload.text", "NUL"),
    "a field beside it": ([email(), email(subject="x")], 1, "subject", "move it into payload"),
    "a lane that is none": ([email(lane="email.slow")], 0, "lane", "email.bulk"),
    "a priority": ([email(priority=11)], 0, "priority", "less than or equal to 10"),
    "a priority in quotes": ([email(priority="5")], 0, "priority", "a whole number, not a string"),
    "a time without zone": ([email(due_at="2030-01-01T00:00:00")], 0, "due_at", "time zone"),
    "a time before the first": ([email(due_at="0001-01-01T00:00:00+14:00")], 0, "due_at", "between the years 1 and 9999"),
    "a number for a time": ([email(due_at="1700000000")], 0, "due_at", "must be a time like"),
    "a time past": ([email(), email(expires_at=YESTERDAY)], 1, "expires_at", "in the past"),
    "times the wrong way round": ([email(due_at=TOMORROW, expires_at=YESTERDAY)], 0, "due_at", "after expires_at"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "index", "field", "word"), BAD.values(), ids=BAD)
def test_a_batch_is_all_or_nothing_with_the_index_of_the_invalid_message(
    api: Api, given: list[Any], index: int, field: str, word: str
) -> None:
    answer = api.post("messages", given)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert (error["index"], error["field"]) == (index, field)
    assert word in error["detail"]
    assert "value error" not in error["detail"].lower()
    assert not rows(api)
    assert not api.sql("SELECT id FROM backline.audit_trail")


RECIPIENTS = [
    "ann@example.com", "Ann <ann@example.com>", "<ann@example.com>", "Ann<ann@example.com>", '"Ann <x>" <ann@example.com>',
    "Ann, Ben <ann@example.com>", "ann", "", "ann@", "a b@example.com", "ann@ex ample.com", '"a b"@example.com',
    "Zoë <zoë@exämple.com>", "Ann\t<ann@example.com>", "Ann  <ann@example.com>", "ann@[127.0.0.1]", "a" * 395 + " <a@b>",
    "a" * 394 + " <a@b>", "ann@example.com ", "ann(x)@example.com", "Ann <ann@example.com> x", "a@b@c",
]  # fmt: skip


def test_email_recipients_are_validated_as_in_the_database(api: Api) -> None:
    judged = {
        recipient: api.sql("SELECT backline.recipient_error('email', %s) IS NULL AS fits", recipient)[0]["fits"]
        for recipient in RECIPIENTS
    }
    assert {recipient: submission.is_valid_email_recipient(recipient) for recipient in RECIPIENTS} == judged
    assert set(judged.values()) == {True, False}


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
def test_a_refusal_by_the_database_has_its_index_too(api: Api, key: dict[str, str]) -> None:
    answer = api.post("messages", [email(), email("<ann@example.com>")], headers=key)
    assert [(error["index"], error["field"]) for error in answer.json()["errors"]] == [(1, "to")]


def test_every_invalid_message_is_listed_and_a_single_one_has_no_index(api: Api) -> None:
    errors = api.post("messages", [email("x"), email(), email("y")]).json()["errors"]
    assert [error["index"] for error in errors] == [0, 2]
    [error] = api.post("messages", email(payload={})).json()["errors"]
    assert (error["field"], error.get("index")) == ("payload.subject", None)


@pytest.mark.parametrize("count", [0, 1001])
def test_the_size_of_a_batch_is_limited(api: Api, count: int) -> None:
    answer = api.post("messages", [email()] * count)
    assert answer.status_code == 422
    assert "1 to 1,000" in answer.json()["detail"]


def test_an_idempotency_key_returns_the_first_ids(api: Api) -> None:
    first = api.post("messages", email(), headers={"Idempotency-Key": "order-1"}).json()["messages"]
    assert api.post("messages", email(), headers={"Idempotency-Key": "order-1"}).json()["messages"] == first
    answer = api.post("messages", email("ben@example.com"), headers={"Idempotency-Key": "order-1"})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "Idempotency-Key", "detail": answer.json()["detail"][17:]}]
    assert len(rows(api)) == 1


def test_a_batch_has_one_key(api: Api) -> None:
    batch = [email("a@example.com"), {"type": "welcome", "to": "b@example.com", "payload": {"name": "B"}}, email()]
    key = {"Idempotency-Key": "kk"}
    first = api.post("messages", batch, headers=key).json()["messages"]
    assert sorted(one["id"] for one in first) == [row["id"] for row in rows(api)]
    assert api.post("messages", batch, headers=key).json()["messages"] == first
    refused = {
        "another message": [*batch[:2], email("d@example.com")],
        "another order": batch[::-1],
        "more": [*batch, email("d@example.com")],
        "fewer": batch[:1],
        "alone": batch[0],
    }
    for name, body in refused.items():
        answer = api.post("messages", body, headers=key)
        assert answer.status_code == 422, name
        [error] = answer.json()["errors"]
        assert error["field"] == "Idempotency-Key"
        assert f"the batch that begins with id {first[0]['id']}" in error["detail"]
    assert len(rows(api)) == 3
    assert api.post("messages", batch[0], headers={"Idempotency-Key": "kk/0"}).json()["messages"] != first[:1]


def test_a_key_names_one_message_whatever_its_type(api: Api) -> None:
    key = {"Idempotency-Key": "k"}
    welcome = {"type": "welcome", "to": "ann@example.com", "payload": {"name": "Ann"}}
    [first] = api.post("messages", welcome, headers=key).json()["messages"]
    for body in (email(), [welcome]):
        answer = api.post("messages", body, headers=key)
        assert answer.status_code == 422
        assert f"was used for message {first['id']} with other content" in answer.json()["detail"]
    assert len(rows(api)) == 1


def test_each_user_has_their_own_keys_and_so_have_the_jobs(api: Api) -> None:
    key = "order:5:receipt"
    api.sql("SELECT backline.enqueue('welcome', 'a@example.com', '{\"name\": \"A\"}', idempotency_key => %s)", key)
    for role in ("op", "admin"):
        answer = api.post("messages", email(f"{role}@example.com"), role, headers={"Idempotency-Key": key})
        assert answer.status_code == 202
    assert len({row["id"] for row in rows(api)}) == 3


def test_a_replay_is_another_content_than_the_first_message(api: Api) -> None:
    key = {"Idempotency-Key": "k"}
    [first] = api.post("messages", email(), headers=key).json()["messages"]
    finish(api, first["id"], "sent")
    answer = api.post(f"messages/{first['id']}/replay", headers=key)
    assert answer.status_code == 422
    assert f"was used for message {first['id']} with other content" in answer.json()["detail"]
    assert len(rows(api)) == 1
    assert api.get("audit-trail", "admin", params={"action": "message.replay"}).json()["entries"] == []


def test_a_repeated_batch_returns_its_ids_after_it_has_expired(api: Api) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    batch, key = [email(expires_at=soon), email("b@example.com", expires_at=soon)], {"Idempotency-Key": "k"}
    first = api.post("messages", batch, headers=key)
    assert first.status_code == 202
    api.sql("SELECT pg_sleep_until(%s)", soon)
    assert api.post("messages", batch, headers=key).json()["messages"] == first.json()["messages"]


@pytest.mark.parametrize("is_batch", [False, True])
def test_requests_with_one_key_at_once_are_one(api: Api, *, is_batch: bool) -> None:
    body = [email(), email("b@example.com")] if is_batch else email()

    def send(_: int) -> list[dict[str, Any]]:
        while (answer := api.post("messages", body, headers={"Idempotency-Key": "k"})).status_code == 503:
            assert answer.headers["retry-after"]
        accepted: list[dict[str, Any]] = answer.json()["messages"]
        return accepted

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(send, range(8)))
    assert all(result == results[0] for result in results)
    assert len(rows(api)) == 1 + is_batch


def test_a_held_key_is_a_503_for_its_requests_only(api: Api) -> None:
    key = {"Idempotency-Key": "held"}
    with open_transaction(api) as holder:
        holder.execute(
            "SELECT backline.enqueue('welcome', 'a@example.com', '{\"name\": \"A\"}', idempotency_key => 'held',"
            " key_scope => 'http:op-1')"
        )
        with ThreadPoolExecutor(16) as pool:
            held = [pool.submit(api.post, "messages", body, headers=key) for body in [email(), [email()]] * 6]
            others = [pool.submit(api.post, "messages", email(f"{n}@example.com")) for n in range(3)]
            ready = pool.submit(api.get, f"{PREFIX}/readyz", None)
            assert ready.result(30).status_code == 200
            assert [answer.result(30).status_code for answer in others] == [202] * 3
            for answer in held:
                assert answer.result(30).status_code == 503
                assert answer.result().headers["retry-after"] == "2"
                assert "Another transaction holds" in answer.result().json()["detail"]
    # The holder has committed.
    assert api.post("messages", email(), headers=key).status_code == 422


def test_a_message_that_is_locked_is_a_503_too(api: Api) -> None:
    [made] = api.post("messages", email()).json()["messages"]
    with open_transaction(api) as holder:
        holder.execute("SELECT FROM backline.message WHERE id = %s FOR UPDATE", [made["id"]])
        assert api.post(f"messages/{made['id']}/cancel").status_code == 503
    assert api.post(f"messages/{made['id']}/cancel").status_code == 200


def test_a_secret_is_encrypted_before_it_is_stored_and_never_shown(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    change_type(api, monkeypatch, secret_fields=frozenset({"name"}))
    answer = api.post("messages", {"type": "welcome", "to": "ann@example.com", "payload": {"name": "4711"}})
    assert answer.status_code == 202
    [row] = rows(api)
    assert Fernet(FERNET_KEY).decrypt(row["payload"]["name"]) == b"4711"
    shown = api.get(f"messages/{row['id']}")
    assert shown.json()["payload"] == {"name": "(secret)"}
    finish(api, row["id"], "dead", "rejected")
    assert api.get(f"messages/{row['id']}").json()["payload"] == {}
    assert "4711" not in answer.text + shown.text + json.dumps(
        api.sql("SELECT * FROM backline.audit_trail"), default=str
    )
    retried = api.post(f"messages/{row['id']}/retry")
    assert retried.status_code == 409
    assert "were erased" in retried.json()["detail"]
    refused = api.post(f"messages/{row['id']}/replay")
    assert refused.json()["errors"][0]["field"] == "payload.name"
    again = api.post(f"messages/{row['id']}/replay", {"payload": {"name": "0815"}})
    assert again.status_code == 202
    assert Fernet(FERNET_KEY).decrypt(rows(api)[1]["payload"]["name"]) == b"0815"


def test_a_type_of_several_channels_becomes_a_group(api: Api) -> None:
    to = {"email": "ann@example.com", "sms": "+4915112345678"}
    given = {"type": "order_shipped", "to": to, "payload": registry.get("order_shipped").example}
    answer = api.post("messages", given)
    assert answer.status_code == 202
    [taken] = answer.json()["messages"]
    assert answer.headers["location"] == taken["url"] == f"/backline/api/v1/groups/{taken['id']}"
    group = api.get(taken["url"]).json()
    assert [(one["channel"], one["recipient"]) for one in group["messages"]] == list(to.items())
    assert "accepted from op-1" in api.get(group["messages"][1]["url"]).json()["timeline"][0]["text"]
    for wrong, field in (
        ("ann", "to"),
        ({"fax": "1"}, "to.fax"),
        ({"email": "ann"}, "to.email"),
        ({"sms": "0151 12345678"}, "to.sms"),
        ({}, "to"),
    ):
        assert api.post("messages", {**given, "to": wrong}).json()["errors"][0]["field"] == field
    [alone] = api.post("messages", {**given, "to": "+49 1511 2345678"}).json()["messages"]
    assert [(one["channel"], one["recipient"]) for one in api.get(alone["url"]).json()["messages"]] == [
        ("sms", "+4915112345678")
    ]


def test_one_message_with_its_timeline(api: Api) -> None:
    message_id = api.post("messages", email()).json()["messages"][0]["id"]
    finish(api, message_id, "sent")
    found = api.get(f"messages/{message_id}").json()
    assert found["state"] == "sent"
    assert found["why"].startswith("Sent at ")
    assert [event["event"] for event in found["timeline"]] == ["accepted", "sent", "attempt"]
    attempt = found["timeline"][2]["attempt"]
    assert (attempt["number"], attempt["duration_ms"], attempt["response"]) == (1, 7.5, "250 Ok")
    assert attempt["log"] == "/dags/dispatch_email/runs/run%201/tasks/dispatch"


def test_cancel(api: Api) -> None:
    message_id = api.post("messages", email()).json()["messages"][0]["id"]
    answer = api.post(f"messages/{message_id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert answer.json()["why"].startswith("Not sent: op-1 cancelled it at ")
    assert api.post(f"messages/{message_id}/cancel").json()["state"] == "cancelled"
    acts = api.get("audit-trail", "admin", params={"target": f"message/{message_id}"}).json()["entries"]
    assert [(act["actor"], act["action"]) for act in acts] == [("op-1", "message.cancel"), ("op-1", "message.send")]
    assert (acts[0]["before"], acts[0]["after"]) == ({"state": "pending"}, {"state": "cancelled"})
    finish(api, message_id, "sent")
    answer = api.post(f"messages/{message_id}/cancel")
    assert answer.status_code == 409
    assert "is sent already" in answer.json()["detail"]


def test_retry_of_a_dead_message(api: Api) -> None:
    message_id = api.post("messages", email()).json()["messages"][0]["id"]
    assert api.post(f"messages/{message_id}/retry").status_code == 409
    finish(api, message_id, "dead", "network")
    answer = api.post(f"messages/{message_id}/retry")
    assert (answer.status_code, answer.json()["state"], answer.json()["max_attempts"]) == (200, "pending", 7)
    assert "retried by op-1" in [event["text"] for event in answer.json()["timeline"]]


def test_replay_creates_a_new_message(api: Api) -> None:
    message_id = api.post("messages", email(lane="email.bulk")).json()["messages"][0]["id"]
    assert api.post(f"messages/{message_id}/replay").status_code == 409
    finish(api, message_id, "sent")
    assert api.post(f"messages/{message_id}/replay", {"payload": {"subject": ""}}).status_code == 422
    assert api.post(f"messages/{message_id}/replay", {"subject": "x"}).status_code == 422
    payload = {"subject": "Corrected", "text": "Hi"}
    edits = {"to": "ben@example.com", "payload": payload}
    answer = api.post(f"messages/{message_id}/replay", edits, headers={"Idempotency-Key": "again"})
    assert answer.status_code == 202
    repeated = api.post(f"messages/{message_id}/replay", edits, headers={"Idempotency-Key": "again"})
    assert repeated.json()["messages"] == answer.json()["messages"]
    other = api.post(f"messages/{message_id}/replay", headers={"Idempotency-Key": "again"})
    assert other.json()["errors"][0]["field"] == "Idempotency-Key"
    first, second = rows(api)
    assert (second["replay_of"], second["lane"], second["recipient"]) == (first["id"], "email.bulk", "ben@example.com")
    assert second["payload"] == payload
    assert f"as a replay of message {message_id}" in api.get(answer.headers["location"]).json()["timeline"][0]["text"]
    acts = api.get("audit-trail", "admin", params={"action": "message.replay"}).json()["entries"]
    assert acts[-1]["after"] == {"new": second["id"], "edited": ["to", "payload"]}


def test_a_failed_action_leaves_no_audit_entry(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    message_id = api.post("messages", email()).json()["messages"][0]["id"]

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("backline.outbox.submission.record", fail)
    assert api.post(f"messages/{message_id}/cancel").status_code == 500
    assert rows(api)[0]["state"] == "pending"


def test_search_by_each_filter(api: Api) -> None:
    api.post("messages", email("Ann <Ann@Example.com>"), headers={"X-Request-ID": "r-1"})
    api.post("messages", email("ben@example.com", lane="email.bulk"), headers={"X-Request-ID": "r-2"})
    api.post("messages", {"type": "welcome", "to": "cem@example.com", "payload": {"name": "Cem"}, "due_at": TOMORROW})
    for query, expected in (
        ({}, ["cem@example.com", "ben@example.com", "Ann <Ann@Example.com>"]),
        ({"recipient": "ann@example.com"}, ["Ann <Ann@Example.com>"]),
        ({"recipient": "%"}, []),
        ({"type": "welcome"}, ["cem@example.com"]),
        ({"state": "scheduled"}, ["cem@example.com"]),
        ({"lane": "email.bulk"}, ["ben@example.com"]),
        ({"request_id": "r-1"}, ["Ann <Ann@Example.com>"]),
        ({"since": TOMORROW}, []),
        ({"until": YESTERDAY}, []),
        ({"since": YESTERDAY, "until": TOMORROW, "limit": "2"}, ["cem@example.com", "ben@example.com"]),
    ):
        found = api.get("messages", params=query).json()
        assert [one["recipient"] for one in found["messages"]] == expected, query


def test_a_search_is_paged(api: Api) -> None:
    ids = [
        one["id"] for one in api.post("messages", [email(f"r{n}@example.com") for n in range(25)]).json()["messages"]
    ]
    url, found = "messages?limit=10", []
    for _ in range(4):
        page = api.get(url).json()
        found += [one["id"] for one in page["messages"]]
        if (url := page["next"]) is None:
            break
    assert found == ids[::-1]
    assert url is None


def test_a_search_scans_a_limited_range_per_request(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.post("messages", [email("old@example.com"), *[email(f"r{n}@example.com") for n in range(30)]])
    monkeypatch.setattr(queries.search_messages, "__defaults__", (10,))
    url, found, pages = "messages?recipient=old@", [], 0
    while url:
        page = api.get(url).json()
        found += page["messages"]
        url, pages = page["next"], pages + 1
    assert ([one["recipient"] for one in found], pages) == (["old@example.com"], 4)


def test_a_time_filter_is_translated_to_ids(api: Api) -> None:
    api.post("messages", [email(f"r{n}@example.com") for n in range(100)])
    api.sql("UPDATE backline.message SET created_at = '2026-01-01'::timestamptz + id * interval '1 minute'")
    api.sql("DELETE FROM backline.message WHERE id % 7 = 0")
    ids = [row["id"] for row in rows(api)]
    start = api.sql("SELECT '2026-01-01'::timestamptz AS at")[0]["at"]
    middle = start + timedelta(minutes=40)
    since = api.get("messages", params={"since": middle.isoformat(), "limit": 500}).json()["messages"]
    until = api.get("messages", params={"until": middle.isoformat(), "limit": 500}).json()["messages"]
    assert [one["id"] for one in since] == [i for i in reversed(ids) if i >= 40]
    assert [one["id"] for one in until] == [i for i in reversed(ids) if i < 40]


def test_the_pool_is_bounded_and_waiting_times_out(make_api: Callable[..., Api]) -> None:
    api = make_api()
    connections = api.app.state.connections
    connections._config = api.app.state.config.model_copy(update={"max_db_connections": 1, "pool_timeout_seconds": 0.2})
    with connections.transaction():
        answer = api.get("messages")
    assert answer.status_code == 503
    assert api.get("messages").status_code == 200
