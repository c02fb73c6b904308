"""`dispatch_<lane>`: what is enqueued by SQL arrives, rung for by the doorbell; each case's id is the DAG."""

from __future__ import annotations

import pytest

from backline.demo.world import World
from backline.errors import InvalidInput

pytestmark = pytest.mark.stack

LANES = {
    "dispatch_email": ("email.normal", "email", {"subject": "Hello", "text": "By its lane."}),
    "dispatch_email_urgent": (
        "email.urgent",
        "urgent_email",
        {"context": {"title": "Look", "summary": "By its lane."}},
    ),
    "dispatch_email_bulk": ("email.bulk", "email", {"subject": "Hello", "text": "By its lane."}),
}


@pytest.mark.parametrize("dag", LANES)
def test_dispatch(dag: str, world: World) -> None:
    lane, kind, payload = LANES[dag]
    domain = world.domain(dag)
    with world.transaction():
        ids = [world.enqueue(kind, f"reader-{number}@{domain}", payload) for number in range(20)]
        world.query("demo", "move_to_lane", ids=ids, lane=lane)
    arrived = world.wait_arrived(domain, 20)
    assert sorted(arrival.recipients[0] for arrival in arrived) == sorted(f"reader-{number}@{domain}" for number in range(20))
    assert "By its lane." in world.mail.open(arrived[0].id).text
    runs = {row["dag_run"].split("/")[0] for number in ids for row in world.query("outbox", "message_attempts", id=number)}
    assert runs == {dag}


def test_wrong_input_takes_its_transaction_down(world: World) -> None:
    domain = world.domain("aborted")
    with pytest.raises(InvalidInput) as wrong, world.transaction():
        world.enqueue("email", f"good@{domain}", {"subject": "Good", "text": "Good"})
        world.enqueue("email", f"bad@{domain}", {"text": "No subject"})
    assert wrong.value.field == "subject"
    assert world.query("demo", "enqueued_to", pattern=f"%@{domain}", since=world.started) == []
