"""What the benches do to the outbox, as an app would: enqueue letters, and see how they went."""

from __future__ import annotations

import json
from collections.abc import Sequence

import psycopg
from psycopg.rows import DictRow

from backline.errors import UnknownFailure
from bench.peers.letters import context, recipient
from bench.stack_copy import TEMPLATE, query, wait_for

LANE = "email.normal"
_ENQUEUE = """
SELECT unnest(backline.enqueue_many('templated_email', %(recipients)s::text[], %(payloads)s::jsonb[],
    lane => %(lane)s::text)) AS id"""
_UNFINISHED = "SELECT count(*) AS n FROM backline.message WHERE id = ANY (%(ids)s::bigint[]) AND finalized_at IS NULL"
_ANY_UNFINISHED = """
SELECT EXISTS (SELECT FROM backline.message
               WHERE id BETWEEN %(first)s::bigint AND %(last)s::bigint AND finalized_at IS NULL) AS any"""
_DRAIN = """
SELECT count(*) FILTER (WHERE m.state = 'sent') AS sent, count(*) AS tries,
    extract(epoch FROM min(a.started_at))::float8 AS first_try,
    extract(epoch FROM max(m.finalized_at))::float8 AS last_completion
FROM backline.message AS m JOIN backline.attempt AS a ON a.message_id = m.id
WHERE m.id = ANY (%(ids)s::bigint[])"""
_LIVE = """
SELECT count(*) AS n FROM backline.dispatcher
WHERE lane = %(lane)s::text AND NOT handing_over AND heartbeat_at > clock_timestamp() - interval '5 seconds'"""


def payload(number: int) -> str:
    """Letter `number` as the outbox takes it."""
    return json.dumps({"template": TEMPLATE, "context": context(number)})


def enqueue(connection: psycopg.Connection[DictRow], numbers: Sequence[int], lane: str = LANE) -> list[int]:
    """Enqueue those letters in one statement; returns their ids."""
    rows = query(
        connection,
        _ENQUEUE,
        recipients=[recipient(number) for number in numbers],
        payloads=[payload(number) for number in numbers],
        lane=lane,
    )
    return [int(row["id"]) for row in rows]


def wait_finished(connection: psycopg.Connection[DictRow], ids: Sequence[int], seconds: float) -> None:
    """Return once all these messages have ended; UnknownFailure after so many seconds."""
    span = {"first": min(ids), "last": max(ids)}
    wait_for(
        lambda: not query(connection, _ANY_UNFINISHED, **span)[0]["any"],
        f"{len(ids):,} messages to be sent",
        seconds,
        look_seconds=0.1,
    )


def drained(connection: psycopg.Connection[DictRow], ids: Sequence[int]) -> tuple[float, float]:
    """When the first of them was tried and the last was complete (epoch seconds, the database's clock).

    UnknownFailure unless each was sent, and at its first try.
    """
    row = query(connection, _DRAIN, ids=list(ids))[0]
    if (row["sent"], row["tries"]) != (len(ids), len(ids)):
        raise UnknownFailure(f"{row['sent']:,} of {len(ids):,} messages were sent, in {row['tries']:,} tries")
    return row["first_try"], row["last_completion"]


def live_dispatchers(connection: psycopg.Connection[DictRow], lane: str = LANE) -> int:
    """How many dispatchers serve the lane now."""
    return int(query(connection, _LIVE, lane=lane)[0]["n"])


def warm(connection: psycopg.Connection[DictRow], lane: str, dispatchers: int, batch: int) -> None:
    """Send letters through a lane until so many dispatchers serve it and all has ended."""

    def served() -> bool:
        if live_dispatchers(connection, lane) >= dispatchers:
            return True
        wait_finished(connection, enqueue(connection, range(batch), lane), 60)
        return False

    wait_for(served, f"{dispatchers} dispatchers of {lane}", 60, look_seconds=0.0)
