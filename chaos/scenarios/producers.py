"""Apps that enqueue invalid messages, roll back, or lose their connection in mid-transaction."""

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
    """Messages that must be rejected, by the field that the error has to name."""

    def email(**payload: object) -> InvalidMessage:
        return ("email", to, json.dumps(payload), None, None, None)

    return {
        "type": ("no_such_type", to, PAYLOAD, None, None, None),
        "subject": email(text="No subject"),
        "subjekt": email(subject="Hi", text="Hi", subjekt="?"),
        "text": email(subject="Hi", text=17),
        "payload": ("email", to, '["a", "list"]', None, None, None),
        "recipient": ("email", "not an address", PAYLOAD, None, None, None),
        "expires_at": ("email", to, PAYLOAD, LATER_TIME, EARLIER_TIME, None),
        "lane": ("email", to, PAYLOAD, None, None, "no.such.lane"),
    }


def _malformed_messages(env: ChaosEnvironment) -> Tolerances:
    generator = random.Random(1)
    invalid = invalid_messages(f"rolled-back@{env.domain}")
    fields = sorted(invalid)
    with psycopg.connect(env.dsn, autocommit=True) as connection:
        for number in range(env.full_or_short(10_000, 500)):
            field = generator.choice(fields)
            try:
                with connection.transaction():
                    # The valid one must be rolled back with the invalid one.
                    connection.execute(
                        ENQUEUE_SQL, ("email", f"rolled-back-{number}@chaos.example.com", PAYLOAD, None, None, None)
                    )
                    connection.execute(ENQUEUE_SQL, invalid[field])
            except psycopg.Error as exc:
                if exc.sqlstate != INVALID_INPUT or field not in str(exc):
                    raise UnknownFailure(f"an invalid {field} was rejected with {exc.sqlstate}: {exc}") from exc
            else:
                raise UnknownFailure(f"an invalid {field} was accepted: {invalid[field]}")
            if number % 5 == 0:
                env.producer.run_transaction(connection, rollback_probability=0.0)
    env.wait_finalized()
    return Tolerances(0)


def _rollbacks(env: ChaosEnvironment) -> Tolerances:
    with ExitStack() as loads:
        for _ in range(PRODUCER_COUNT):
            loads.enter_context(BackgroundLoad(env.producer, env.dsn, 25.0, rollback_probability=0.4))
        for _ in range(env.full_or_short(20, 4)):
            before = env.received_count()
            env.wait_received(before + 50)
            # Some producers lose their connection in mid-transaction, some between a commit and its confirmation.
            env.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND application_name = %s ORDER BY random() LIMIT 2",
                BackgroundLoad.APPLICATION_NAME,
            )
    env.wait_finalized()
    return Tolerances(0)


SCENARIOS = (
    Scenario("malformed", "10,000 invalid messages among valid ones", _malformed_messages),
    Scenario("rollbacks", "producers roll back at random and lose connections in mid-transaction", _rollbacks),
)
