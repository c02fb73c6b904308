"""SQL and HTTP have the same rules: values that one of them took, and that could not be sent or were changed."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from pydantic_core import from_json

from backline.channels.base import Message
from backline.channels.registry import definition
from backline.errors import InvalidInput
from backline.messages import registry, renderer
from backline.settings import settings
from tests.integration.web.conftest import Api
from tests.integration.web.test_sql_and_http_agree import NoServers

RECIPIENTS = {"email": "ann@example.com", "sms": "+4915112345678", "push": "user:17", "webhook": "*"}
EXACT = '{"a": 12345678901234567.89, "b": [0.123456789012345678, 100000000000000000001], "c": {"d": 7280.00}}'
DEEP = "[" * 101 + "]" * 101
HTML = '{"subject": "Hello", "text": "Hi", '
NOT_SENDABLE = {
    "a header of mail servers": ("email", HTML + '"headers": {"Resent-To": "bob@example.com"}}', "headers"),
    "an attachment's name of 300 characters": (
        "email",
        HTML + f'"attachments": [{{"filename": "{"x" * 296}.txt", "content_base64": "eA=="}}]}}',
        "attachments",
    ),
    "a push over 4,096 bytes": ("push", json.dumps({"title": "Hello", "body": "é" * 2100}), ""),
    "an SMS over max_segments": ("sms", json.dumps({"body": "é€" * 600}), "body"),
    "an SMS over max_segments in surrogate pairs": ("sms", json.dumps({"body": "𝄞" * 340}), "body"),
    "data that is too deep": ("webhook", f'{{"event_type": "a", "data": {{"x": {DEEP}}}}}', "data"),
    "a number of too many digits": ("webhook", '{"event_type": "a", "data": {"x": [1e5000]}}', "data"),
    "a fraction of too many digits": ("webhook", '{"event_type": "a", "data": {"x": 1e-5000}}', "data"),
    "a number beyond a double's range": ("webhook", '{"event_type": "a", "data": {"x": 1e400}}', "data"),
    "a nested variable that is too deep": ("templated_email", f'{{"template": "notice", "context": {{"x": {DEEP}}}}}', "context"),
    "a variable with a template constant's name": (
        "templated_sms", '{"template": "notice", "context": {"text": "t", "locale": "x"}}', "context"),
    "the same of an email": (
        "templated_email", '{"template": "notice", "context": {"heading": "h", "paragraphs": ["p"], "language": "x"}}', "context"),
    "a fraction of a cent": ("payment_failed", json.dumps(dict(registry.get("payment_failed").example) | {"amount": 0.5}), "amount"),
}  # fmt: skip
"""Type, payload as JSON, and the field to name."""


def over_http(api: Api, kind: str, payload: str) -> Any:
    channel = registry.get(kind).channels[0]
    body = f'{{"type": "{kind}", "to": "{RECIPIENTS[channel]}", "payload": {payload}}}'
    return api.call("POST", "messages", content=body, headers={"Content-Type": "application/json"})


def over_sql(api: Api, kind: str, payload: str) -> None:
    api.sql("SELECT backline.enqueue(%s, %s, %s::jsonb)", kind, RECIPIENTS[registry.get(kind).channels[0]], payload)


def prepared(api: Api) -> Any:
    """The only message, as its channel sends it."""
    [row] = api.sql("SELECT *, payload::text AS payload_json FROM backline.message")
    channel = definition(row["channel"]).create(settings(), NoServers(), renderer(row["channel"]))
    payload = from_json(row["payload_json"])
    return channel.prepare(
        Message(row["id"], row["type"], row["recipient"], payload, row["created_at"], 1, row["payload_json"])
    )


@pytest.mark.parametrize(("kind", "payload", "field"), NOT_SENDABLE.values(), ids=NOT_SENDABLE)
def test_what_cannot_be_sent_is_refused_by_both(api: Api, kind: str, payload: str, field: str) -> None:
    answer = over_http(api, kind, payload)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith(f"payload.{field}".removesuffix("."))
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
        over_sql(api, kind, payload)
    assert str(caught.value.diag.column_name).startswith(field or "payload")
    assert api.sql("SELECT FROM backline.message") == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_is_refused(api: Api, number: str) -> None:
    assert over_http(api, "webhook", f'{{"event_type": "a", "data": {{"x": {number}}}}}').status_code == 422


@pytest.mark.parametrize("enter", [over_http, over_sql])
def test_a_number_keeps_its_digits(api: Api, enter: Any) -> None:
    enter(api, "webhook", f'{{"event_type": "a", "data": {EXACT}}}')
    assert EXACT.replace(" ", "") in prepared(api).body.decode().replace(" ", "")


def test_a_number_in_a_batch_keeps_its_digits(api: Api) -> None:
    one = f'{{"type": "webhook", "to": "*", "payload": {{"event_type": "a", "data": {EXACT}}}}}'
    other = one.replace("12345678901234567.89", "0.1")
    answer = api.call("POST", "messages", content=f"[{other}, {one}]", headers={"Content-Type": "application/json"})
    assert answer.status_code == 202
    found = api.sql("SELECT payload -> 'data' ->> 'a' AS a FROM backline.message ORDER BY id")
    assert [row["a"] for row in found] == ["0.1", "12345678901234567.89"]


@pytest.mark.parametrize("enter", [over_http, over_sql])
def test_a_number_without_a_fraction_is_whole(api: Api, enter: Any) -> None:
    example = json.dumps(registry.get("payment_failed").example).replace("7280", "7280.00")
    enter(api, "payment_failed", example)
    assert b"72.80" in prepared(api).body


def test_nested_numbers_without_a_fraction_are_whole(api: Api) -> None:
    example = json.dumps(registry.get("order_confirmation").example).replace("2450", "2450.00")
    assert example != json.dumps(registry.get("order_confirmation").example)
    api.sql("SELECT backline.enqueue('order_confirmation', '{\"email\": \"ann@example.com\"}', %s::jsonb)", example)
    assert b"24.50" in prepared(api).body
    api.sql("SELECT backline.enqueue('payment_failed', 'ann@example.com', %s::jsonb || jsonb_build_object('amount', 72.80*100))",
            json.dumps(registry.get("payment_failed").example))  # fmt: skip


def test_a_stored_push_that_is_too_large_fails_alone() -> None:
    with pytest.raises(InvalidInput):
        registry.get("push").parse({"title": "Hello", "body": "é" * 2100})


ORDER = f"'{json.dumps(dict(registry.get('order_shipped').example))}'"
RESET = "'password_reset', 'ann@example.com', '{\"name\": \"Ann\", \"token\": %s}'"


@pytest.mark.parametrize(
    ("call", "field"),
    [
        *(
            (f"enqueue('order_shipped', {recipient}, {ORDER})", "recipient")
            for recipient in (
                """'{"email": "\\u0000"}'""", """'{"email": "\\ud800"}'""", """'{"fax": "\\u0000"}'""", "'{'", "'[]'", "'null'", "NULL",
                "'{\"email\": ' || repeat('[', 20000) || repeat(']', 20000) || '}'",
                "'{\"email\": ' || repeat('[', 2400) || repeat(']', 2400) || '}'",
            )
        ),
        *(
            (f"enqueue({RESET % token})", "token")
            for token in (
                '"gAAAAx\\n"', '{"$ref": "nope", "id": 1}', '{"$ref": "password_reset_token"}', '{"$ref": "password_reset_token", "id": 1.5}',
                '{"$ref": "password_reset_token", "id": 1, "x": 2}', '{"$ref": "password_reset_token", "id": ""}',
                '{"$ref": "password_reset_token", "id": true}', '{"$ref": "password_reset_token", "id": [[1]]}',
                '{"$ref": "password_reset_token", "id": 1e30}', '{"$ref": ["password_reset_token"], "id": 1}',
            )
        ),
        ("suppress('email', 'a@example.com', NULL)", "reason"),
        ("suppress('email', 'a@example.com', 'no such')", "reason"),
        ("suppress(NULL, 'a@example.com')", "channel"),
        ("suppress('email', NULL)", "address"),
        ("opt_out('email', NULL)", "address"),
        ("opt_out('email', 'a@example.com', NULL)", "topic"),
        ("opt_in(NULL, 'a@example.com')", "channel"),
        ("set_preference('email', NULL)", "address"),
    ],
)  # fmt: skip
def test_odd_arguments_are_refused_by_name(api: Api, call: str, field: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
        api.sql(f"SELECT backline.{call}")
    assert refused.value.diag.column_name == field


def test_the_source_of_an_app_is_its_role(api: Api) -> None:
    api.sql("SELECT backline.suppress('email', 'a@example.com', source => NULL)")
    api.sql("SELECT backline.opt_out('email', 'a@example.com', source => NULL)")
    rows = api.sql("SELECT source FROM backline.suppression UNION ALL SELECT source FROM backline.opt_out")
    assert rows == api.sql("SELECT session_user::text AS source") * 2


@pytest.mark.parametrize("name", ["\U0001d11e" * 64, "é" * 128 + "/y"])
def test_a_path_that_no_file_can_have_is_missing_like_any_other(api: Api, name: str) -> None:
    """Python's pathlib raises OSError for it."""
    payload = json.dumps({"subject": "Hello", "text": "Hi", "attachments": [{"path": f"{name}.pdf"}]})
    assert over_http(api, "email", payload).status_code == 202
    with pytest.raises(InvalidInput, match=r"^attachments\[0\]"):
        prepared(api)
