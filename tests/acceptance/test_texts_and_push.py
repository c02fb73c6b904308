"""SMS and push messages by runs, groups by HTTP, and unregistered devices, on the real stack."""

from __future__ import annotations

import json

import psycopg
import pytest

from backline.messages import registry
from demo.check import wait_until
from demo.context import DemoContext
from demo.send_runs import run_result
from stack.reference_app import apply_schema
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack
GONE = {
    "status": 404,
    "body": {"error": {"code": 404, "status": "NOT_FOUND", "details": [{"errorCode": "UNREGISTERED"}]}},
}


def test_a_run_sends_a_text(context: DemoContext) -> None:
    recipient = context.recipients("run")["sms"]
    context.airflow.trigger("send_sms", {"to": recipient, "body": "Grüße €"}, context.run_id("text"))
    result = run_result(context, "send_sms", context.run_id("text"))
    [came] = context.gateways.received("sms", recipient)
    assert came["text"] == "Grüße €"
    assert (result["state"], result["provider_id"]) == ("sent", came["sid"])


def test_a_run_sends_an_order_by_email_and_sms(context: DemoContext) -> None:
    to = {name: context.recipients("both")[name] for name in ("email", "sms")}
    run_id = context.run_id("both")
    context.airflow.trigger("send_order_shipped", {"to": to, **registry.get("order_shipped").sample()}, run_id)
    messages = run_result(context, "send_order_shipped", run_id)["messages"]
    assert [(one["channel"], one["state"]) for one in messages] == [("email", "sent"), ("sms", "sent")]
    [came] = context.gateways.received("sms", to["sms"])
    assert "https://carrier.example/track/4711081599" in came["text"]
    assert [mail.recipients for mail in context.emails_at(context.domain("types")) if to["email"] in mail.recipients]


def test_an_invalid_number_fails_the_run_with_the_reason(context: DemoContext) -> None:
    context.airflow.trigger("send_sms", {"to": "0151 12345678", "body": "Hi"}, context.run_id("bad"))
    assert context.airflow.wait("send_sms", context.run_id("bad"), 90)["state"] == "failed"
    log = context.airflow.log("send_sms", context.run_id("bad"), "send")
    assert "lacks its country code" in log


def test_a_busy_gateway_is_retried(context: DemoContext) -> None:
    recipient = context.recipients("busy")["sms"]
    context.gateways.set_faults("sms", {"status": 429, "retry_after": 1, "recipient": recipient, "times": 1})
    made = context.enqueue("sms", recipient, {"body": "Hello"})
    [came] = wait_until(lambda: context.gateways.received("sms", recipient), "the text")
    assert came["text"] == "Hello"
    assert wait_until(lambda: context.message_status(made)["state"] == "sent", "its end")
    assert context.message_status(made)["attempt"] == 2
    context.gateways.set_faults("sms")


def test_an_unregistered_device_is_removed_from_the_apps_table(
    context: DemoContext, stack_exports: dict[str, str]
) -> None:
    old, new = (context.recipients(name)["push"] for name in ("old", "new"))
    apply_schema(stack_exports["BACKLINE_DATABASE_URL"])
    with psycopg.connect(stack_exports["BACKLINE_DATABASE_URL"], autocommit=True) as connection:
        row = connection.execute(
            "INSERT INTO app.users (email, name, country) VALUES (%s, 'Ann', 'DE') RETURNING id",
            [f"{context.tag}@example.com"],
        ).fetchone()
        assert row is not None
        for token in (old, new):
            connection.execute(
                "INSERT INTO app.push_tokens (user_id, platform, token) VALUES (%s, 'android', %s)", [row[0], token]
            )
        context.gateways.set_faults("push", {**GONE, "recipient": old})
        made = context.enqueue("push", f"user:{row[0]}", {"title": "Hello", "body": "On all of your devices"})
        [came] = wait_until(lambda: context.gateways.received("push", new), "the notification")
        context.gateways.set_faults("push")
        assert came["text"] == "On all of your devices"
        assert wait_until(lambda: context.message_status(made)["state"] == "sent", "its end")
        left = connection.execute(
            "SELECT token FROM app.push_tokens WHERE user_id = %s AND removed_at IS NULL", [row[0]]
        ).fetchall()
        assert left == [(new,)]
    assert context.gateways.received("push", old) == []
    assert "was refused" in context.message_status(made)["error"]


def test_the_command_sends_both_halves_of_an_order(context: DemoContext, stack: IsolatedStack) -> None:
    to = {name: context.recipients("command")[name] for name in ("email", "sms")}
    payload = json.dumps(registry.get("order_confirmation").sample())
    done = stack.run(
        "send", "order_confirmation", "--to", json.dumps(to), "--payload", payload, "--json",
    )  # fmt: skip
    assert [row["recipient"] for row in json.loads(done.stdout)] == list(to.values())
    [came] = wait_until(lambda: context.gateways.received("sms", to["sms"]), "the text")
    assert "order 1042" in came["text"]
