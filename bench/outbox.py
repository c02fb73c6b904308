"""The benches' access to the outbox, as an app's: enqueue emails and read their results."""

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
    """The payload of email `number`."""
    return json.dumps({"template": TEMPLATE_NAME, "context": template_context(number)})


def enqueue_emails(connection: psycopg.Connection[DictRow], numbers: Sequence[int], lane: str = LANE) -> list[int]:
    """Enqueue emails in one statement; returns their ids."""
    rows = query(
        connection,
        statement("bench", "message_enqueue_many"),
        type="templated_email",
        recipients=[recipient(number) for number in numbers],
        payloads=[email_payload(number) for number in numbers],
        lane=lane,
    )
    return [int(row["id"]) for row in rows]


def wait_finished(connection: psycopg.Connection[DictRow], ids: Sequence[int], seconds: float) -> None:
    """Return once all these messages are final; UnknownFailure after the timeout."""
    bounds = {"first": min(ids), "last": max(ids)}
    wait_for(
        lambda: not query(connection, statement("bench", "message_any_unfinished"), **bounds)[0]["any"],
        f"{len(ids):,} messages to be sent",
        seconds,
        poll_interval_seconds=0.1,
    )


def drain_times(connection: psycopg.Connection[DictRow], ids: Sequence[int]) -> tuple[float, float]:
    """The times of the first attempt and the last completion (epoch seconds, the database's clock).

    UnknownFailure unless each message was sent with one attempt.
    """
    row = query(connection, statement("bench", "message_drain_stats"), ids=list(ids))[0]
    if (row["sent"], row["attempts"]) != (len(ids), len(ids)):
        raise UnknownFailure(f"{row['sent']:,} of {len(ids):,} messages were sent, in {row['attempts']:,} attempts")
    return row["first_attempt_at"], row["last_finalized_at"]


def live_dispatcher_count(connection: psycopg.Connection[DictRow], lane: str = LANE) -> int:
    """How many live dispatchers the lane has."""
    return int(query(connection, statement("bench", "dispatcher_live_count"), lane=lane)[0]["dispatchers"])


def warm_up_lane(connection: psycopg.Connection[DictRow], lane: str, dispatchers: int, batch: int) -> None:
    """Send emails through a lane until that many dispatchers serve it and all messages are final."""

    def is_warm() -> bool:
        if live_dispatcher_count(connection, lane) >= dispatchers:
            return True
        wait_finished(connection, enqueue_emails(connection, range(batch), lane), 60)
        return False

    wait_for(is_warm, f"{dispatchers} dispatchers of {lane}", 60, poll_interval_seconds=0.0)
