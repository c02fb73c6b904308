"""Apps that send nonsense, and apps that change their mind or die in mid-transaction."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack

import psycopg

from backline.errors import UnknownFailure
from chaos.arena import Arena
from chaos.producer import LETTER, Load
from chaos.scenario import Bounds, Scenario

ENQUEUE = "SELECT backline.enqueue(%s, %s, %s::jsonb, due_at => %s, expires_at => %s, lane => %s)"
LATER, EARLIER = "2100-01-01T00:00:00Z", "2099-01-01T00:00:00Z"
Wrong = tuple[str, str, str, str | None, str | None, str | None]
INVALID_INPUT = "22023"
PRODUCERS = 8


def wrong_ones(to: str) -> dict[str, Wrong]:
    """Messages that must not be taken, by the field that the refusal has to name."""

    def say(**payload: object) -> Wrong:
        return ("email", to, json.dumps(payload), None, None, None)

    return {
        "type": ("no_such_type", to, LETTER, None, None, None),
        "subject": say(text="No subject"),
        "subjekt": say(subject="Hi", text="Hi", subjekt="?"),
        "text": say(subject="Hi", text=17),
        "payload": ("email", to, '["a", "list"]', None, None, None),
        "recipient": ("email", "not an address", LETTER, None, None, None),
        "expires_at": ("email", to, LETTER, LATER, EARLIER, None),
        "lane": ("email", to, LETTER, None, None, "no.such.lane"),
    }


def _malformed(arena: Arena) -> Bounds:
    dice = random.Random(1)
    to = f"undone@{arena.domain}"
    wrong = wrong_ones(to)
    kinds = sorted(wrong)
    with psycopg.connect(arena.dsn, autocommit=True) as connection:
        for number in range(arena.pick(10_000, 500)):
            field = dice.choice(kinds)
            try:
                with connection.transaction():
                    # A good one in the same transaction: it must go down with the other.
                    connection.execute(
                        ENQUEUE, ("email", f"undone-{number}@chaos.example.com", LETTER, None, None, None)
                    )
                    connection.execute(ENQUEUE, wrong[field])
            except psycopg.Error as exc:
                if exc.sqlstate != INVALID_INPUT or field not in str(exc):
                    raise UnknownFailure(f"a wrong {field} was refused with {exc.sqlstate}: {exc}") from exc
            else:
                raise UnknownFailure(f"a wrong {field} was taken: {wrong[field]}")
            if number % 5 == 0:
                arena.producer.commit(connection, roll_back=0.0)
    arena.wait_ended()
    return Bounds(0)


def _rollbacks(arena: Arena) -> Bounds:
    with ExitStack() as loads:
        for _ in range(PRODUCERS):
            loads.enter_context(Load(arena.producer, arena.dsn, 25.0, roll_back=0.4))
        for _ in range(arena.pick(20, 4)):
            before = arena.arrived()
            arena.wait_arrived(before + 50)
            # Some producers die in mid-transaction, some between their commit and its answer.
            arena.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND application_name = %s ORDER BY random() LIMIT 2",
                Load.APPLICATION,
            )
    arena.wait_ended()
    return Bounds(0)


SCENARIOS = (
    Scenario("malformed", "10,000 wrong messages among good ones", _malformed),
    Scenario("rollbacks", "producers roll back at random, and lose their connections in mid-transaction", _rollbacks),
)
