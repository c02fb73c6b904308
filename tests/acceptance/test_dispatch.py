"""`dispatch_<lane>`: the lane trigger starts it, and messages enqueued by SQL arrive; each case's id is the DAG."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from backline.errors import InvalidInput
from demo.context import DemoContext
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack

EMAIL = {"subject": "Hello", "text": "By its lane."}
LANES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dispatch_email": ("email.normal", "email", EMAIL),
    "dispatch_email_urgent": (
        "email.urgent",
        "urgent_email",
        {"context": {"title": "Look", "summary": "By its lane."}},
    ),
    "dispatch_email_bulk": ("email.bulk", "email", EMAIL),
}
READERS = 20


def enqueue(dsn: str, lane: str, kind: str, payload: dict[str, Any], domain: str) -> list[int]:
    """Enqueue messages in one transaction of an app."""
    with psycopg.connect(dsn) as connection:
        enqueued = [
            connection.execute(
                "SELECT backline.enqueue(%s, %s, %s, lane => %s)",
                (kind, f"reader-{number:02}@{domain}", json.dumps(payload), lane),
            ).fetchone()
            for number in range(READERS)
        ]
    return [row[0] for row in enqueued if row]


def expected(domain: str) -> list[str]:
    return [f"reader-{number:02}@{domain}" for number in range(READERS)]


@pytest.mark.parametrize("dag", LANES)
def test_dispatch(dag: str, context: DemoContext, stack_exports: dict[str, str]) -> None:
    lane, kind, payload = LANES[dag]
    domain = context.domain(dag)
    ids = enqueue(stack_exports["BACKLINE_DATABASE_URL"], lane, kind, payload, domain)
    arrived = context.wait_for_emails(domain, READERS)
    assert sorted(recipient for arrival in arrived for recipient in arrival.recipients) == expected(domain)
    assert "By its lane." in context.mail.get_email(arrived[0].id).text
    runs = [row["dag_run"] for number in ids for row in context.query("outbox", "message_attempts", id=number)]
    assert {run.partition("/")[0] for run in runs} == {dag}


def test_a_manual_run_drains_the_lane_without_a_scheduler(basics: IsolatedStack) -> None:
    basics.run("setup")
    with basics.context() as context:
        domain = context.domain("by-hand")
        ids = enqueue(basics.exports()["BACKLINE_DATABASE_URL"], "email.bulk", "email", EMAIL, domain)
        assert context.count_states(ids) == {"pending": READERS}
        basics.run("airflow", "dags", "test", "dispatch_email_bulk")
        assert context.count_states(ids) == {"sent": READERS}
        arrived = context.emails_at(domain)
    assert sorted(recipient for arrival in arrived for recipient in arrival.recipients) == expected(domain)


def test_invalid_input_aborts_its_transaction(context: DemoContext) -> None:
    domain = context.domain("aborted")

    def order() -> None:
        with context.transaction():
            context.enqueue("email", f"good@{domain}", EMAIL)
            context.enqueue("email", f"bad@{domain}", {"text": "No subject"})

    with pytest.raises(InvalidInput) as wrong:
        order()
    assert wrong.value.field == "subject"
    assert context.query("demo", "message_find_by_recipient", pattern=f"%@{domain}", since=context.started_at) == []
