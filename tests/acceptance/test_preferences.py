"""Preferences on the running stack: leaving by the link of a mail that arrived, suppression by command, quiet hours."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import default

import httpx
import pytest

from backline.messages import registry
from demo.check import wait_until
from demo.context import DemoContext
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack


def newsletter_payload() -> dict[str, object]:
    """A newsletter without a page of the app's own, so that it has ours."""
    return {name: value for name, value in registry.get("newsletter").sample().items() if name != "unsubscribe_url"}


def unsubscribe_link(stack: IsolatedStack, arrival: int) -> str:
    """The link in the header of a mail as the server got it."""
    (path,) = (stack.home / "mail" / "new").glob(f"{arrival // 1_000_000}.M{arrival % 1_000_000:06}P*")
    header = str(message_from_bytes(path.read_bytes(), policy=default)["List-Unsubscribe"])
    return "".join(header.split()).removeprefix("<").removesuffix(">")


def why(stack: IsolatedStack, message_id: int) -> str:
    return str(json.loads(stack.run("inspect", str(message_id), "--json").stdout)["why"])


def wait_for_state(world: DemoContext, message_id: int, state: str) -> None:
    wait_until(lambda: world.message_status(message_id)["state"] == state, f"message {message_id} to be {state}")


def test_unsubscribe(stack: IsolatedStack, world: DemoContext) -> None:
    domain = world.domain("leaving")
    reader = f"Ann <ann@{domain}>"
    world.enqueue("newsletter", reader, newsletter_payload())
    (arrival,) = world.wait_for_emails(domain, 1)
    link = unsubscribe_link(stack, arrival.id)
    assert link.startswith(f"{world.url}/backline/unsubscribe/")
    assert link in world.mail.get_email(arrival.id).text

    assert "Unsubscribe from “Newsletter”?" in httpx.get(link, trust_env=False).text
    second = world.enqueue("newsletter", reader, newsletter_payload())
    wait_for_state(world, second, "sent")  # a look leaves nothing
    left = httpx.post(link, data={"List-Unsubscribe": "One-Click"}, trust_env=False)
    assert (left.status_code, "You are unsubscribed from “Newsletter”" in left.text) == (200, True)

    third = world.enqueue("newsletter", reader, newsletter_payload())
    wait_for_state(world, third, "suppressed")
    assert "the recipient left the topic newsletter" in why(stack, third)
    world.enqueue("welcome", reader, {"name": "Ann"})
    assert len(world.wait_for_emails(domain, 3)) == 3

    assert "Good to have you back" in httpx.post(link, data={"action": "opted_in"}, trust_env=False).text
    wait_for_state(world, world.enqueue("newsletter", reader, newsletter_payload()), "sent")


def test_suppressions(stack: IsolatedStack, world: DemoContext) -> None:
    address = f"ann@{world.domain('suppressed')}"
    added = json.loads(stack.run("suppressions", "add", address.upper(), "--reason", "closed", "--json").stdout)
    listed = json.loads(stack.run("suppressions", "list", "--address", address, "--json").stdout)
    assert listed == [added]
    assert address in stack.run("suppressions", "list").stdout

    message = world.enqueue("welcome", address, {"name": "Ann"})
    wait_for_state(world, message, "suppressed")
    assert "the address is suppressed since" in why(stack, message)
    run_id = world.run_id("suppressed")
    world.airflow.trigger("send_email", {"to": address, "subject": "Hello", "text": "Hi"}, run_id)
    world.airflow.wait("send_email", run_id, 90)
    assert world.airflow.task("send_email", run_id, "send")["state"] == "skipped"
    assert world.emails_at(world.domain("suppressed")) == []

    assert "can be written to again" in stack.run("suppressions", "remove", "--address", address).stdout
    assert "is not suppressed" in stack.run("suppressions", "remove", "--address", address, check=False).stderr
    world.enqueue("welcome", address, {"name": "Ann"})
    assert len(world.wait_for_emails(world.domain("suppressed"), 1)) == 1


def test_quiet_hours(stack: IsolatedStack, world: DemoContext) -> None:
    recipient = f"ann@{world.domain('quiet')}"
    begin, end = ((datetime.now(UTC) + timedelta(hours=hours)).strftime("%H:%M") for hours in (-1, 2))
    wishes = {"channel": "email", "address": recipient, "zone": "UTC", "quiet_from": begin, "quiet_until": end}
    exports = stack.exports()
    login = {"username": exports["BACKLINE_USER"], "password": exports["BACKLINE_PASSWORD"]}
    with httpx.Client(base_url=world.url, trust_env=False) as http:
        token = http.post("/auth/token", json=login).json()["access_token"]
        http.post(
            "/backline/api/v1/preferences", json=wishes, headers={"Authorization": f"Bearer {token}"}
        ).raise_for_status()
    message = world.enqueue("welcome", recipient, {"name": "Ann"})
    wait_for_state(world, message, "scheduled")
    assert "it was put off (quiet hours of the recipient" in why(stack, message)
    urgent = world.enqueue("urgent_email", recipient, registry.get("urgent_email").sample())
    wait_for_state(world, urgent, "sent")
    assert len(world.emails_at(world.domain("quiet"))) == 1
