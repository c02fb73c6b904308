"""Apps that send nonsense, and apps that change their mind or die in mid-transaction."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack

import psycopg

from backline.errors import UnknownFailure
from chaos.environment import ChaosEnvironment
from chaos.producer import PAYLOAD, BackgroundLoad
from chaos.scenario import Scenario, Tolerances

ENQUEUE_SQL = "SELECT backline.enqueue(%s, %s, %s::jsonb, due_at => %s, expires_at => %s, lane => %s)"
LATER_TIME, EARLIER_TIME = "2100-01-01T00:00:00Z", "2099-01-01T00:00:00Z"
InvalidMessage = tuple[str, str, str, str | None, str | None, str | None]
INVALID_INPUT = "22023"
PRODUCER_COUNT = 8


def invalid_messages(to: str) -> dict[str, InvalidMessage]:
    """Messages that must not be taken, by the field that the refusal has to name."""

    def say(**payload: object) -> InvalidMessage:
        return ("email", to, json.dumps(payload), None, None, None)

    return {
        "type": ("no_such_type", to, PAYLOAD, None, None, None),
        "subject": say(text="No subject"),
        "subjekt": say(subject="Hi", text="Hi", subjekt="?"),
        "text": say(subject="Hi", text=17),
        "payload": ("email", to, '["a", "list"]', None, None, None),
        "recipient": ("email", "not an address", PAYLOAD, None, None, None),
        "expires_at": ("email", to, PAYLOAD, LATER_TIME, EARLIER_TIME, None),
        "lane": ("email", to, PAYLOAD, None, None, "no.such.lane"),
    }


def _malformed_messages(arena: ChaosEnvironment) -> Tolerances:
    dice = random.Random(1)
    to = f"undone@{arena.domain}"
    wrong = invalid_messages(to)
    kinds = sorted(wrong)
    with psycopg.connect(arena.dsn, autocommit=True) as connection:
        for number in range(arena.full_or_short(10_000, 500)):
            field = dice.choice(kinds)
            try:
                with connection.transaction():
                    # A good one in the same transaction: it must go down with the other.
                    connection.execute(
                        ENQUEUE_SQL, ("email", f"undone-{number}@chaos.example.com", PAYLOAD, None, None, None)
                    )
                    connection.execute(ENQUEUE_SQL, wrong[field])
            except psycopg.Error as exc:
                if exc.sqlstate != INVALID_INPUT or field not in str(exc):
                    raise UnknownFailure(f"a wrong {field} was refused with {exc.sqlstate}: {exc}") from exc
            else:
                raise UnknownFailure(f"a wrong {field} was taken: {wrong[field]}")
            if number % 5 == 0:
                arena.producer.run_transaction(connection, rollback_probability=0.0)
    arena.wait_finalized()
    return Tolerances(0)


def _rollbacks(arena: ChaosEnvironment) -> Tolerances:
    with ExitStack() as loads:
        for _ in range(PRODUCER_COUNT):
            loads.enter_context(BackgroundLoad(arena.producer, arena.dsn, 25.0, rollback_probability=0.4))
        for _ in range(arena.full_or_short(20, 4)):
            before = arena.received_count()
            arena.wait_received(before + 50)
            # Some producers die in mid-transaction, some between their commit and its answer.
            arena.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND application_name = %s ORDER BY random() LIMIT 2",
                BackgroundLoad.APPLICATION_NAME,
            )
    arena.wait_finalized()
    return Tolerances(0)


SCENARIOS = (
    Scenario("malformed", "10,000 wrong messages among good ones", _malformed_messages),
    Scenario("rollbacks", "producers roll back at random, and lose their connections in mid-transaction", _rollbacks),
)
