"""What the benches do to the outbox, as an app would: enqueue letters, and see how they went."""

from __future__ import annotations

import json
from collections.abc import Sequence

import psycopg
from psycopg.rows import DictRow

from backline.db.statements import statement
from backline.errors import UnknownFailure
from bench.harness import TEMPLATE_NAME
from bench.peers.emails import recipient, template_context
from testkit.processes import wait_for
from testkit.stack_copy import query

LANE = "email.normal"


def email_payload(number: int) -> str:
    """Letter `number` as the outbox takes it."""
    return json.dumps({"template": TEMPLATE_NAME, "context": template_context(number)})


def enqueue_emails(connection: psycopg.Connection[DictRow], numbers: Sequence[int], lane: str = LANE) -> list[int]:
    """Enqueue those letters in one statement; returns their ids."""
    rows = query(
        connection,
        statement("bench", "email_enqueue_many"),
        recipients=[recipient(number) for number in numbers],
        payloads=[email_payload(number) for number in numbers],
        lane=lane,
    )
    return [int(row["id"]) for row in rows]


def wait_finished(connection: psycopg.Connection[DictRow], ids: Sequence[int], seconds: float) -> None:
    """Return once all these messages have ended; UnknownFailure after so many seconds."""
    span = {"first": min(ids), "last": max(ids)}
    wait_for(
        lambda: not query(connection, statement("bench", "message_any_unfinished"), **span)[0]["any"],
        f"{len(ids):,} messages to be sent",
        seconds,
        poll_interval_seconds=0.1,
    )


def drain_times(connection: psycopg.Connection[DictRow], ids: Sequence[int]) -> tuple[float, float]:
    """When the first of them was tried and the last was complete (epoch seconds, the database's clock).

    UnknownFailure unless each was sent, and at its first try.
    """
    row = query(connection, statement("bench", "message_drain_stats"), ids=list(ids))[0]
    if (row["sent"], row["attempts"]) != (len(ids), len(ids)):
        raise UnknownFailure(f"{row['sent']:,} of {len(ids):,} messages were sent, in {row['tries']:,} tries")
    return row["first_attempt_at"], row["last_finalized_at"]


def live_dispatcher_count(connection: psycopg.Connection[DictRow], lane: str = LANE) -> int:
    """How many dispatchers serve the lane now."""
    return int(query(connection, statement("bench", "dispatcher_live_count"), lane=lane)[0]["dispatchers"])


def warm_up_lane(connection: psycopg.Connection[DictRow], lane: str, dispatchers: int, batch: int) -> None:
    """Send letters through a lane until so many dispatchers serve it and all has ended."""

    def served() -> bool:
        if live_dispatcher_count(connection, lane) >= dispatchers:
            return True
        wait_finished(connection, enqueue_emails(connection, range(batch), lane), 60)
        return False

    wait_for(served, f"{dispatchers} dispatchers of {lane}", 60, poll_interval_seconds=0.0)
