"""`dispatch_<lane>`: what an app enqueues by SQL arrives: the poller starts the DAG. Each case's id is the DAG."""

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
    """Some messages in one transaction of an app's own."""
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
def test_dispatch(dag: str, world: DemoContext, stack_exports: dict[str, str]) -> None:
    lane, kind, payload = LANES[dag]
    domain = world.domain(dag)
    ids = enqueue(stack_exports["BACKLINE_DATABASE_URL"], lane, kind, payload, domain)
    arrived = world.wait_for_emails(domain, READERS)
    assert sorted(recipient for arrival in arrived for recipient in arrival.recipients) == expected(domain)
    assert "By its lane." in world.mail.get_email(arrived[0].id).text
    runs = [row["dag_run"] for number in ids for row in world.query("outbox", "message_attempts", id=number)]
    assert {run.partition("/")[0] for run in runs} == {dag}


def test_a_run_by_hand_drains_the_lane_without_a_scheduler(basics: IsolatedStack) -> None:
    basics.run("setup")
    with basics.world() as world:
        domain = world.domain("by-hand")
        ids = enqueue(basics.exports()["BACKLINE_DATABASE_URL"], "email.bulk", "email", EMAIL, domain)
        assert world.count_states(ids) == {"pending": READERS}
        basics.run("airflow", "dags", "test", "dispatch_email_bulk")
        assert world.count_states(ids) == {"sent": READERS}
        arrived = world.emails_at(domain)
    assert sorted(recipient for arrival in arrived for recipient in arrival.recipients) == expected(domain)


def test_wrong_input_takes_its_transaction_down(world: DemoContext) -> None:
    domain = world.domain("aborted")

    def order() -> None:
        with world.transaction():
            world.enqueue("email", f"good@{domain}", EMAIL)
            world.enqueue("email", f"bad@{domain}", {"text": "No subject"})

    with pytest.raises(InvalidInput) as wrong:
        order()
    assert wrong.value.field == "subject"
    assert world.query("demo", "message_find_by_recipient", pattern=f"%@{domain}", since=world.started_at) == []
