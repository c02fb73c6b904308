"""Webhooks on the real stack: an app's event reaches its endpoint signed, is retried, and jobs fire events."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from demo.check import wait_until
from demo.context import DemoContext
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack
EVENT = {"event_type": "order.paid", "data": {"order": "1042", "total": "72.80", "currency": "EUR"}}
OPERATORS = "operators@localhost.localdomain"


@dataclass
class Hooks:
    """The sandbox's endpoint, and the commands that manage endpoints."""

    copy: IsolatedStack
    context: DemoContext
    url: str
    web: httpx.Client

    def command(self, *arguments: str) -> Any:
        """`./backline webhooks ... --json`."""
        return json.loads(self.copy.run("webhooks", *arguments, "--json").stdout)

    def add(self, name: str, *event_types: str) -> dict[str, Any]:
        """An endpoint at the sandbox; `name` is unique to this test."""
        options = [word for event_type in event_types for word in ("--event", event_type)]
        made: dict[str, Any] = self.command("add", f"{self.url}/{name}", *options)
        return made

    def got(self, name: str, count: int) -> list[dict[str, Any]]:
        """Wait for `count` requests to that name and return all."""

        def find() -> list[dict[str, Any]] | None:
            response = self.web.get("/webhooks/api/requests", params={"name": name, "limit": 1000})
            found: list[dict[str, Any]] = response.raise_for_status().json()["requests"]
            return found if len(found) >= count else None

        return wait_until(find, f"{count} requests to {name}")

    def fail(self, **rule: Any) -> None:
        self.web.put("/webhooks/faults", json=[rule]).raise_for_status()


@pytest.fixture
def hooks(stack: IsolatedStack, context: DemoContext, stack_exports: dict[str, str]) -> Iterator[Hooks]:
    url = stack_exports["BACKLINE_WEBHOOK_URL"]
    with httpx.Client(base_url=stack_exports["BACKLINE_MAIL_URL"], trust_env=False) as web:
        made = Hooks(stack, context, url, web)
        yield made
        web.delete("/webhooks/faults").raise_for_status()
    for endpoint in made.command("list"):
        made.command("delete", endpoint["id"], "--yes")


def test_an_apps_event_arrives_signed(hooks: Hooks) -> None:
    made = hooks.add("orders", "order.*")
    hooks.add("users", "user.*")
    with hooks.context.transaction():
        event = hooks.context.enqueue("webhook", "*", EVENT)
    (got,) = hooks.got("orders", 1)
    verified = Webhook(made["secret"]).verify(got["body"], got["headers"])
    assert verified == {"type": "order.paid", "timestamp": verified["timestamp"], "data": EVENT["data"]}
    with pytest.raises(WebhookVerificationError):
        Webhook(made["secret"]).verify(got["body"].replace("72.80", "00.80"), got["headers"])
    story = json.loads(hooks.copy.run("inspect", str(event), "--json").stdout)
    assert "to 1 endpoint: group" in story["why"]
    (row,) = hooks.context.query("messages", "message_group", id=event)
    wait_until(lambda: hooks.context.message_status(row["id"])["state"] == "sent", "the message to be sent")
    (attempt,) = hooks.context.query("outbox", "message_attempts", id=row["id"])
    assert attempt["dag_run"].startswith("dispatch_webhook/")
    assert (attempt["code"], attempt["response"]) == ("200", "accepted")
    assert "users" not in {one["name"] for one in hooks.got("*", 1)}


def test_a_failing_endpoint_gets_the_same_event_again(hooks: Hooks) -> None:
    hooks.add("flaky", "order.paid")
    hooks.fail(name="flaky", status=503, times=1)
    hooks.context.enqueue("webhook", "*", EVENT)
    first, second = hooks.got("flaky", 2)
    assert (first["status"], second["status"]) == (503, 200)
    assert first["body"] == second["body"]
    assert first["headers"]["webhook-id"] == second["headers"]["webhook-id"]
    assert second["at"] - first["at"] > 3.5


def test_gone_disables_the_endpoint_and_notifies_the_operators(hooks: Hooks) -> None:
    made = hooks.add("gone", "order.*")
    hooks.fail(name="gone", status=410)
    hooks.context.enqueue("webhook", "*", EVENT)

    def notices() -> list[Any]:
        arrived = hooks.context.mail.list_emails(OPERATORS, hooks.context.since)
        return [mail for mail in arrived if mail.subject == f"[warning] Webhook endpoint {made['id']} was disabled"]

    (mail,) = wait_until(notices, "the notice")
    email = hooks.context.mail.get_email(mail.id)
    assert "410 Gone" in email.text
    assert f"./backline webhooks enable {made['id']}" in email.text
    assert hooks.command("show", made["id"])["state"] == "disabled"
    hooks.fail(name="gone", status=200)
    hooks.command("enable", made["id"])
    again = hooks.command("replay", made["id"], "--since", hooks.context.started_at.isoformat())
    assert len(again["messages"]) >= 1
    found = hooks.got("gone", 2)
    assert found[0]["headers"]["webhook-id"] in {one["headers"]["webhook-id"] for one in found[1:]}


def test_a_run_sends_to_one_endpoint_or_to_all(hooks: Hooks) -> None:
    made = hooks.add("by-run", "nothing.else")
    run_id = hooks.context.run_id("send-webhook")
    hooks.context.airflow.trigger("send_webhook", {"to": made["id"], **EVENT}, run_id)
    assert hooks.context.airflow.wait("send_webhook", run_id, 120)["state"] == "success"
    (got,) = hooks.got("by-run", 1)
    assert json.loads(got["body"])["data"] == EVENT["data"]
    hooks.add("by-run-too", "order.paid")
    every = hooks.context.run_id("send-webhook-every")
    hooks.context.airflow.trigger("send_webhook", {"to": "*", **EVENT}, every)
    assert hooks.context.airflow.wait("send_webhook", every, 120)["state"] == "success"
    hooks.got("by-run-too", 1)


def test_jobs_fire_events_when_they_end(hooks: Hooks) -> None:
    shutil.copy(Path(__file__).parent / "dags" / "fires.py", hooks.copy.own_dags / "fires.py")
    wait_until(
        lambda: "fires_failed" in {dag["dag_id"] for dag in hooks.context.airflow.dags()}, "the DAG to be parsed"
    )
    made = hooks.add("jobs", "job.*")
    # The triggerer caches job names for a minute; the test's own is new.
    runs = {"purge_dead_letters": ("success", {"dry_run": True}), "fires_failed": ("failed", {})}
    for job, (_, conf) in runs.items():
        hooks.context.airflow.trigger(job, conf, hooks.context.run_id("fires"))

    def ends() -> dict[str, dict[str, Any]] | None:
        events = [json.loads(one["body"]) for one in hooks.got("jobs", 1)]
        mine = {one["data"]["job"]: one for one in events if one["data"]["run_id"] == hooks.context.run_id("fires")}
        return mine if set(mine) == set(runs) else None

    found = wait_until(ends, "the events of both runs")
    assert found["purge_dead_letters"]["type"] == "job.succeeded"
    assert found["fires_failed"]["type"] == "job.failed"
    for job, (state, _) in runs.items():
        data = found[job]["data"]
        assert data["state"] == state
        assert found[job]["timestamp"][:19] == data["ended_at"][:19]
        assert data["url"].endswith(f"/dags/{job}/runs/{data['run_id']}")
    got = hooks.got("jobs", 2)[0]
    Webhook(made["secret"]).verify(got["body"], got["headers"])


def test_other_ports_of_this_host_are_blocked(hooks: Hooks, stack_exports: dict[str, str]) -> None:
    done = hooks.copy.run(
        "webhooks", "add", stack_exports["BACKLINE_URL"].replace("localhost", "127.0.0.1"), check=False
    )
    assert done.returncode == 1
    assert "url: 127.0.0.1 is not a public address" in done.stderr
    named = hooks.command("add", stack_exports["BACKLINE_URL"] + "/backline/livez")
    assert "localhost" in named["url"]
    message = hooks.command("test", named["id"])["messages"][0]
    wait_until(lambda: hooks.context.message_status(message)["state"] == "dead", "the message to be rejected")
    assert "which is not a public address" in hooks.context.message_status(message)["error"]
