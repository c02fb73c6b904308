"""An app that enqueues in its own transactions, rolls some back, and records which messages were accepted."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Collection
from types import TracebackType
from typing import Self

import psycopg

PAYLOAD = json.dumps({"subject": "During a fault", "text": "It arrived nevertheless."})
MAX_PER_TRANSACTION = 4
RECONNECT_DELAY_SECONDS = 0.2


class Producer:
    """Enqueues messages and records their recipients, one message each.

    `accepted` are those whose commit was confirmed. `rolled_back` are those of transactions that were rolled back or
    failed: none of them may get mail. `unknown_outcome` are those whose commit was sent but not confirmed;
    `resolve_unknown_outcomes` looks them up, as an app does after a crash.
    """

    def __init__(self, dsn: str, domain: str, *, lane: str = "email.normal", seed: int = 1) -> None:
        self.domain = domain
        self.accepted: set[str] = set()
        self.rolled_back: set[str] = set()
        self.unknown_outcome: set[str] = set()
        self._dsn = dsn
        self._lane = lane
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def recipient(self) -> str:
        """A new recipient."""
        return f"r{next(self._numbers):06}@{self.domain}"

    def record_accepted(self, *recipients: str) -> None:
        """Record recipients whose messages were enqueued by other means."""
        self._reclassify(recipients, to=self.accepted)

    def enqueue(self, count: int, *, lane: str | None = None) -> None:
        """Enqueue messages in one transaction, in the producer's lane or another one."""
        recipients = [self.recipient() for _ in range(count)]
        with psycopg.connect(self._dsn) as connection:
            connection.execute(
                "SELECT backline.enqueue_many('email', %s, %s::jsonb[], lane => %s)",
                (recipients, [PAYLOAD] * count, lane or self._lane),
            )
        self.record_accepted(*recipients)

    def run_transaction(self, connection: psycopg.Connection, *, rollback_probability: float = 0.1) -> None:
        """Run one transaction with a few messages, rolled back with that probability; psycopg.Error if it fails."""
        with self._lock:
            recipients = [self.recipient() for _ in range(self._random.randint(1, MAX_PER_TRANSACTION))]
            rolls_back = self._random.random() < rollback_probability
        self._reclassify(recipients, to=self.rolled_back)
        for recipient in recipients:
            connection.execute(
                "SELECT backline.enqueue('email', %s, %s::jsonb, lane => %s)", (recipient, PAYLOAD, self._lane)
            )
        if rolls_back:
            connection.rollback()
            return
        self._reclassify(recipients, to=self.unknown_outcome)
        connection.commit()
        self._reclassify(recipients, to=self.accepted)

    def resolve_unknown_outcomes(self) -> None:
        """Look up the unknown outcomes; afterwards each recipient is accepted or rolled back."""
        with psycopg.connect(self._dsn) as connection:
            found = connection.execute(
                "SELECT recipient FROM backline.message WHERE recipient = ANY (%s)", (list(self.unknown_outcome),)
            )
            committed = {str(row[0]) for row in found}
        self._reclassify(self.unknown_outcome - committed, to=self.rolled_back)
        self._reclassify(committed, to=self.accepted)

    def _reclassify(self, recipients: Collection[str], to: set[str]) -> None:
        with self._lock:
            for each in (self.accepted, self.rolled_back, self.unknown_outcome):
                each.difference_update(recipients)
            to.update(recipients)


class BackgroundLoad:
    """Runs a producer in a thread, about `rate` messages a second, through every fault. A context manager."""

    APPLICATION_NAME = "chaos producer"
    """The name of its connections in pg_stat_activity."""

    def __init__(self, producer: Producer, dsn: str, rate: float, *, rollback_probability: float = 0.1) -> None:
        self._producer = producer
        self._dsn = dsn
        self._pause = (1 + MAX_PER_TRANSACTION) / 2 / rate
        self._roll_back = rollback_probability
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and exc is None:
            raise self._error

    def _run(self) -> None:
        connection: psycopg.Connection | None = None
        try:
            while not self._stop.wait(self._pause):
                try:
                    if connection is None or connection.closed:
                        connection = psycopg.connect(
                            self._dsn, connect_timeout=2, application_name=self.APPLICATION_NAME
                        )
                    self._producer.run_transaction(connection, rollback_probability=self._roll_back)
                except psycopg.OperationalError:  # the server went away: the app reconnects for its next customer
                    if connection is not None:
                        connection.close()
                    self._stop.wait(RECONNECT_DELAY_SECONDS)
        except BaseException as exc:  # noqa: BLE001 - raised in the waiting thread
            self._error = exc
        finally:
            if connection is not None:
                connection.close()
