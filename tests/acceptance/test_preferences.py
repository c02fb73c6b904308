"""Preferences on the running stack: unsubscribing by an email's link, suppression by command, quiet hours."""

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
    """A newsletter without the app's own unsubscribe page, so that it links to Backline's."""
    return {name: value for name, value in registry.get("newsletter").sample().items() if name != "unsubscribe_url"}


def unsubscribe_link(stack: IsolatedStack, arrival: int) -> str:
    """The link in the header of a raw email."""
    (path,) = (stack.home / "mail" / "new").glob(f"{arrival // 1_000_000}.M{arrival % 1_000_000:06}P*")
    header = str(message_from_bytes(path.read_bytes(), policy=default)["List-Unsubscribe"])
    return "".join(header.split()).removeprefix("<").removesuffix(">")


def why(stack: IsolatedStack, message_id: int) -> str:
    return str(json.loads(stack.run("inspect", str(message_id), "--json").stdout)["why"])


def wait_for_state(context: DemoContext, message_id: int, state: str) -> None:
    wait_until(lambda: context.message_status(message_id)["state"] == state, f"message {message_id} to be {state}")


def test_unsubscribe(stack: IsolatedStack, context: DemoContext) -> None:
    domain = context.domain("leaving")
    reader = f"Ann <ann@{domain}>"
    context.enqueue("newsletter", reader, newsletter_payload())
    (arrival,) = context.wait_for_emails(domain, 1)
    link = unsubscribe_link(stack, arrival.id)
    assert link.startswith(f"{context.url}/backline/unsubscribe/")
    assert link in context.mail.get_email(arrival.id).text

    assert "Unsubscribe from “Newsletter”?" in httpx.get(link, trust_env=False).text
    second = context.enqueue("newsletter", reader, newsletter_payload())
    wait_for_state(context, second, "sent")  # opening the page changes nothing
    left = httpx.post(link, data={"List-Unsubscribe": "One-Click"}, trust_env=False)
    assert (left.status_code, "You are unsubscribed from “Newsletter”" in left.text) == (200, True)

    third = context.enqueue("newsletter", reader, newsletter_payload())
    wait_for_state(context, third, "suppressed")
    assert "the recipient opted out of the topic newsletter" in why(stack, third)
    context.enqueue("welcome", reader, {"name": "Ann"})
    assert len(context.wait_for_emails(domain, 3)) == 3

    assert "Good to have you back" in httpx.post(link, data={"action": "opted_in"}, trust_env=False).text
    wait_for_state(context, context.enqueue("newsletter", reader, newsletter_payload()), "sent")


def test_suppressions(stack: IsolatedStack, context: DemoContext) -> None:
    address = f"ann@{context.domain('suppressed')}"
    added = json.loads(stack.run("suppressions", "add", address.upper(), "--reason", "closed", "--json").stdout)
    listed = json.loads(stack.run("suppressions", "list", "--address", address, "--json").stdout)
    assert listed == [added]
    assert address in stack.run("suppressions", "list").stdout

    message = context.enqueue("welcome", address, {"name": "Ann"})
    wait_for_state(context, message, "suppressed")
    assert "the address is suppressed since" in why(stack, message)
    run_id = context.run_id("suppressed")
    context.airflow.trigger("send_email", {"to": address, "subject": "Hello", "text": "Hi"}, run_id)
    context.airflow.wait("send_email", run_id, 90)
    assert context.airflow.task("send_email", run_id, "send")["state"] == "skipped"
    assert context.emails_at(context.domain("suppressed")) == []

    assert "is no longer suppressed" in stack.run("suppressions", "remove", "--address", address).stdout
    assert "is not suppressed" in stack.run("suppressions", "remove", "--address", address, check=False).stderr
    context.enqueue("welcome", address, {"name": "Ann"})
    assert len(context.wait_for_emails(context.domain("suppressed"), 1)) == 1


def test_quiet_hours(stack: IsolatedStack, context: DemoContext) -> None:
    recipient = f"ann@{context.domain('quiet')}"
    begin, end = ((datetime.now(UTC) + timedelta(hours=hours)).strftime("%H:%M") for hours in (-1, 2))
    preferences = {"channel": "email", "address": recipient, "zone": "UTC", "quiet_from": begin, "quiet_until": end}
    exports = stack.exports()
    login = {"username": exports["BACKLINE_USER"], "password": exports["BACKLINE_PASSWORD"]}
    with httpx.Client(base_url=context.url, trust_env=False) as http:
        token = http.post("/auth/token", json=login).json()["access_token"]
        http.post(
            "/backline/api/v1/preferences", json=preferences, headers={"Authorization": f"Bearer {token}"}
        ).raise_for_status()
    message = context.enqueue("welcome", recipient, {"name": "Ann"})
    wait_for_state(context, message, "scheduled")
    assert "it was postponed (quiet hours of the recipient" in why(stack, message)
    urgent = context.enqueue("urgent_email", recipient, registry.get("urgent_email").sample())
    wait_for_state(context, urgent, "sent")
    assert len(context.emails_at(context.domain("quiet"))) == 1
