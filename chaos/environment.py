"""Where a scenario takes place: a producer, a receiver, and the outbox between them, on whatever runs it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
from psycopg.rows import dict_row

from backline.db.statements import statement
from backline.errors import BacklineError
from backline.settings import OutboxSettings
from chaos.producer import BackgroundLoad, Producer
from testkit.processes import wait_for
from testkit.sandbox_clients import MailCatcherClient
from testkit.tools import Tools

T = TypeVar("T")

LANE = "email.normal"
FINAL_STATES = {"sent", "dead", "expired", "cancelled", "suppressed"}
TIMEOUT_SECONDS = 240.0
POLL_INTERVAL_SECONDS = 0.1
FAST_RETRY_SETTINGS = {
    f"BACKLINE__RETRY__{kind}__{what}_SECONDS": seconds
    for kind in ("TIMEOUT", "NETWORK", "DATABASE", "RATE_LIMITED", "RESOURCE", "UNKNOWN")
    for what, seconds in (("FIRST", "2"), ("CAP", "15"))
}
"""A retry is a matter of seconds; all else is as shipped, but for what a scenario says."""


class ChaosEnvironment:
    """A producer that keeps the list of what was accepted, and the receiver. A context manager.

    All that the producer sends goes to the scenario's own `domain`. A subclass adds the levers.
    """

    def __init__(
        self, name: str, dsn: str, mail_url: str, report: Callable[[str], None], tools: Tools, *, short: bool
    ) -> None:
        self.dsn = dsn
        self.short = short
        self.report = report
        self.tools = tools
        self.mail = MailCatcherClient(mail_url)
        self.started_at = datetime.now(UTC)
        self.domain = f"{name}.chaos.example.com"
        self.producer = Producer(dsn, self.domain, lane=LANE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mail.__exit__(kind, exc, trace)

    def full_or_short(self, full: T, short: T) -> T:
        """The size of something in a full run, and in the short form."""
        return short if self.short else full

    @property
    def max_unconfirmed(self) -> int:
        """Messages that one dispatcher may have between the provider's hands and its commit."""
        return OutboxSettings().max_unconfirmed

    def background_load(self, rate: float = 100.0, *, roll_back: float = 0.1) -> BackgroundLoad:
        """A producer that works beside the faults; a context manager."""
        return BackgroundLoad(self.producer, self.dsn, rate, rollback_probability=roll_back)

    def slow_mail_server(self, seconds: float = 0.05) -> None:
        """Each message is kept first and answered late: a drain lasts, and a kill finds messages in flight."""
        self.mail.set_faults({"recipient": "*", "stage": "data", "action": "slow", "seconds": seconds, "after": True})

    def received_count(self) -> int:
        """Mails that came, those that came twice counted twice."""
        return self.mail.count(f"*@{self.domain}")

    def is_receiver_up(self) -> bool:
        """Whether the receiver answers; NetworkFailure while it does not."""
        return self.received_count() >= 0

    def wait_received(self, count: int, seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until so many mails have come."""
        self.wait_until(lambda: self.received_count() >= count, f"{count:,} mails", seconds)

    def wait_finalized(self, seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until no message is without its end."""
        self.wait_until(lambda: self.unfinished_count() == 0, "the end of all messages", seconds)

    def unfinished_count(self) -> int:
        """Messages of this scenario that have no final state."""
        return sum(state not in FINAL_STATES for _, state in self.messages())

    def messages(self) -> list[tuple[Any, ...]]:
        """All of this scenario's that the outbox holds: recipient and state."""
        return self.query("SELECT recipient, state FROM backline.message WHERE recipient LIKE %s", f"%@{self.domain}")

    def query(self, sql: Any, *params: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement, on a connection of its own; psycopg.OperationalError when the server is away."""
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=2) as connection:
            return connection.execute(sql, params).fetchall()

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait for something that, while parts are broken, may not even be asked."""

        def holds() -> bool:
            with contextlib.suppress(BacklineError, psycopg.OperationalError):
                return bool(condition())
            return False

        wait_for(holds, what, seconds, poll_interval_seconds=POLL_INTERVAL_SECONDS)

    def ledger_missing(self) -> int:
        """What the outbox's own books lack: messages that were accepted and are neither held nor counted as pruned."""
        with psycopg.connect(self.dsn, row_factory=dict_row) as connection:
            rows = connection.execute(
                statement("outbox", "ledger_conservation"), {"since": self.started_at.date()}
            ).fetchall()
        return sum(row["missing"] for row in rows)

    def run_for(self, seconds: float) -> None:
        """Let things run on as they are for so long."""
        time.sleep(seconds)
