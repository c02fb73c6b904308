"""`./backline airflow dags test send_email`: one mail, with and without the rest of the stack."""

from __future__ import annotations

import json

import pytest

from backline.demo.world import World
from tests.acceptance.running import Copy

pytestmark = pytest.mark.stack


def test_with_no_scheduler_running(basics: Copy) -> None:
    with basics.world() as world:
        _send(basics, world)
    running = json.loads(basics.backline("status", "--json").stdout)["services"]
    assert {name for name, service in running.items() if service["state"] == "RUNNING"} == {"postgres", "mail"}


def test_with_the_stack_up_and_dispatchers_warm(stack: Copy, world: World) -> None:
    domain = world.domain("warm-up")
    with world.transaction():
        world.enqueue("email", f"ann@{domain}", {"subject": "Wake up", "text": "Stay warm."})
    world.wait_arrived(domain, 1)
    assert world.query("demo", "dispatchers_at_work", lane="email.normal")
    _send(stack, world)


def _send(copy: Copy, world: World) -> None:
    recipient = f"ann@{world.domain('by-hand')}"
    conf = {"to": recipient, "subject": "By hand", "text": "From the command line."}
    copy.backline("airflow", "dags", "test", "send_email", "-c", json.dumps(conf))
    (arrival,) = world.arrivals(world.domain("by-hand"))
    letter = world.mail.open(arrival.id)
    assert (letter.recipients, letter.subject) == ((recipient,), "By hand")
    assert "From the command line." in letter.text
    (row,) = world.query("demo", "enqueued_to", pattern=recipient, since=world.started)
    assert world.status(row["id"])["state"] == "sent"
