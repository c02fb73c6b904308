"""`./backline airflow dags test send_email`: one email, with and without the rest of the stack."""

from __future__ import annotations

import json

import psycopg
import pytest

from backline.settings import ROOT
from demo.context import DemoContext
from stack.lifecycle import Stack
from stack.paths import Paths
from stack.postgres import MANUAL_RUN_DATABASE
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack


def test_with_no_scheduler_running(basics: IsolatedStack) -> None:
    with basics.context() as context:
        _send(basics, context)
    running = json.loads(basics.run("status", "--json").stdout)["services"]
    assert {name for name, service in running.items() if service["state"] == "RUNNING"} == {"postgres", "mail"}


def test_with_the_stack_up_and_dispatchers_warm(stack: IsolatedStack, context: DemoContext) -> None:
    domain = context.domain("warm-up")
    with context.transaction():
        context.enqueue("email", f"ann@{domain}", {"subject": "Wake up", "text": "Stay warm."})
    context.wait_for_emails(domain, 1)
    assert context.query("demo", "dispatcher_busiest", lane="email.normal")
    _send(stack, context)
    # If the scheduler saw the run, it could pick it up.
    cluster = Stack(lambda _: None, Paths(ROOT, stack.home, stack.port)).cluster
    counts = {}
    for database in ("airflow", MANUAL_RUN_DATABASE):
        with psycopg.connect(cluster.dsn("airflow", database)) as connection:
            counts[database] = connection.execute("SELECT count(*) FROM dag_run WHERE triggered_by = 'TEST'").fetchone()
    assert counts == {"airflow": (0,), MANUAL_RUN_DATABASE: (1,)}


def _send(copy: IsolatedStack, context: DemoContext) -> None:
    recipient = f"ann@{context.domain('by-hand')}"
    conf = {"to": recipient, "subject": "By hand", "text": "From the command line."}
    copy.run("airflow", "dags", "test", "send_email", "-c", json.dumps(conf))
    (arrival,) = context.emails_at(context.domain("by-hand"))
    email = context.mail.get_email(arrival.id)
    assert (email.recipients, email.subject) == ((recipient,), "By hand")
    assert "From the command line." in email.text
    (row,) = context.query("demo", "message_find_by_recipient", pattern=recipient, since=context.started_at)
    assert context.message_status(row["id"])["state"] == "sent"
