"""Preferences on the running stack: leaving by the link of a mail that arrived, suppression by command, quiet hours."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import default

import httpx
import pytest

from backline.demo.check import until
from backline.demo.world import World
from backline.messages import registry
from tests.acceptance.running import Copy

pytestmark = pytest.mark.stack


def news() -> dict[str, object]:
    """A newsletter without a page of the app's own, so that it has ours."""
    return {name: value for name, value in registry.get("newsletter").sample().items() if name != "unsubscribe_url"}


def way_out(stack: Copy, arrival: int) -> str:
    """The link in the header of a mail as the server got it."""
    (path,) = (stack.home / "mail" / "new").glob(f"{arrival // 1_000_000}.M{arrival % 1_000_000:06}P*")
    header = str(message_from_bytes(path.read_bytes(), policy=default)["List-Unsubscribe"])
    return "".join(header.split()).removeprefix("<").removesuffix(">")


def why(stack: Copy, message_id: int) -> str:
    return str(json.loads(stack.backline("inspect", str(message_id), "--json").stdout)["why"])


def ends_as(world: World, message_id: int, state: str) -> None:
    until(lambda: world.status(message_id)["state"] == state, f"message {message_id} to be {state}")


def test_unsubscribe(stack: Copy, world: World) -> None:
    domain = world.domain("leaving")
    reader = f"Ann <ann@{domain}>"
    world.enqueue("newsletter", reader, news())
    (arrival,) = world.wait_arrived(domain, 1)
    link = way_out(stack, arrival.id)
    assert link.startswith(f"{world.url}/backline/unsubscribe/")
    assert link in world.mail.open(arrival.id).text

    assert "Leave “Newsletter”?" in httpx.get(link, trust_env=False).text
    second = world.enqueue("newsletter", reader, news())
    ends_as(world, second, "sent")  # a look leaves nothing
    left = httpx.post(link, data={"List-Unsubscribe": "One-Click"}, trust_env=False)
    assert (left.status_code, "You have left “Newsletter”" in left.text) == (200, True)

    third = world.enqueue("newsletter", reader, news())
    ends_as(world, third, "suppressed")
    assert "the recipient left the topic newsletter" in why(stack, third)
    world.enqueue("welcome", reader, {"name": "Ann"})
    assert len(world.wait_arrived(domain, 3)) == 3

    assert "Good to have you back" in httpx.post(link, data={"act": "came back"}, trust_env=False).text
    ends_as(world, world.enqueue("newsletter", reader, news()), "sent")


def test_suppressions(stack: Copy, world: World) -> None:
    address = f"ann@{world.domain('suppressed')}"
    added = json.loads(stack.backline("suppressions", "add", address.upper(), "--reason", "closed", "--json").stdout)
    listed = json.loads(stack.backline("suppressions", "list", "--address", address, "--json").stdout)
    assert listed == [added]
    assert address in stack.backline("suppressions", "list").stdout

    message = world.enqueue("welcome", address, {"name": "Ann"})
    ends_as(world, message, "suppressed")
    assert "the address is suppressed since" in why(stack, message)
    run_id = world.run_id("suppressed")
    world.airflow.trigger("send_email", {"to": address, "subject": "Hello", "text": "Hi"}, run_id)
    world.airflow.wait("send_email", run_id, 90)
    assert world.airflow.task("send_email", run_id, "send")["state"] == "skipped"
    assert world.arrivals(world.domain("suppressed")) == []

    assert "can be written to again" in stack.backline("suppressions", "remove", "--address", address).stdout
    assert "is not suppressed" in stack.backline("suppressions", "remove", "--address", address, check=False).stderr
    world.enqueue("welcome", address, {"name": "Ann"})
    assert len(world.wait_arrived(world.domain("suppressed"), 1)) == 1


def test_quiet_hours(stack: Copy, world: World) -> None:
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
    ends_as(world, message, "scheduled")
    assert "it was put off (quiet hours of the recipient" in why(stack, message)
    urgent = world.enqueue("urgent_email", recipient, registry.get("urgent_email").sample())
    ends_as(world, urgent, "sent")
    assert len(world.arrivals(world.domain("quiet"))) == 1
