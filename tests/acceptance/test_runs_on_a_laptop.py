"""`./backline airflow dags test send_email`: one mail, with and without the rest of the stack."""

from __future__ import annotations

import json

import psycopg
import pytest

from backline.demo.world import World
from backline.settings import ROOT
from backline.stack.lifecycle import Stack
from backline.stack.paths import Paths
from backline.stack.postgres import BY_HAND
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
    # A run that the scheduler sees is one that it may take from the command.
    cluster = Stack(str, Paths(ROOT, stack.home, stack.port)).cluster
    seen = {}
    for database in ("airflow", BY_HAND):
        with psycopg.connect(cluster.dsn("airflow", database)) as connection:
            seen[database] = connection.execute("SELECT count(*) FROM dag_run WHERE triggered_by = 'TEST'").fetchone()
    assert seen == {"airflow": (0,), BY_HAND: (1,)}


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
