"""The environment of a scenario: a producer, a mail server, and the outbox between them, on any executor."""

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
    f"BACKLINE__RETRY__{kind}__{setting}_SECONDS": seconds
    for kind in ("TIMEOUT", "NETWORK", "DATABASE", "RATE_LIMITED", "RESOURCE", "UNKNOWN")
    for setting, seconds in (("INITIAL_DELAY", "2"), ("MAX_DELAY", "15"))
}
"""Retries within seconds; other settings are as shipped, unless a scenario sets them."""


class ChaosEnvironment:
    """A producer that records accepted messages, and the mail server that receives them. A context manager.

    All recipients are in the scenario's own `domain`. Subclasses add faults.
    """

    def __init__(
        self, name: str, dsn: str, mail_url: str, report: Callable[[str], None], tools: Tools, *, short: bool
    ) -> None:
        self.dsn = dsn
        self.short = short
        self.channels: tuple[str, ...] = ()
        """The channels to which a scenario is limited; all if empty."""
        self.report = report
        self.tools = tools
        self.mail_url = mail_url
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
        """How many messages a dispatcher may have handed to the provider without having committed."""
        return OutboxSettings().max_unconfirmed

    def background_load(self, rate: float = 100.0, *, roll_back: float = 0.1) -> BackgroundLoad:
        """A producer that runs during the faults; a context manager."""
        return BackgroundLoad(self.producer, self.dsn, rate, rollback_probability=roll_back)

    def slow_mail_server(self, seconds: float = 0.05) -> None:
        """Store each message at once but acknowledge it late: draining takes time, and a kill finds messages in flight."""
        self.mail.set_faults({"recipient": "*", "stage": "data", "action": "slow", "seconds": seconds, "after": True})

    def received_count(self) -> int:
        """How many emails arrived, including duplicates."""
        return self.mail.count(f"*@{self.domain}")

    def is_receiver_up(self) -> bool:
        """Whether the mail server responds; NetworkFailure while it does not."""
        return self.received_count() >= 0

    def wait_received(self, count: int, seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until that many emails have arrived."""
        self.wait_until(lambda: self.received_count() >= count, f"{count:,} emails", seconds)

    def wait_finalized(self, seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until every message is in a final state."""
        self.wait_until(lambda: self.unfinished_count() == 0, "all messages in a final state", seconds)

    def unfinished_count(self) -> int:
        """How many messages of this scenario are not in a final state."""
        return sum(state not in FINAL_STATES for _, state in self.messages())

    def messages(self) -> list[tuple[Any, ...]]:
        """All messages of this scenario in the outbox: recipient and state."""
        return self.query("SELECT recipient, state FROM backline.message WHERE recipient LIKE %s", f"%@{self.domain}")

    def query(self, sql: Any, *params: Any) -> list[tuple[Any, ...]]:
        """Execute a statement on a new connection; psycopg.OperationalError if the server is down."""
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=2) as connection:
            return connection.execute(sql, params).fetchall()

    def wait_until(self, condition: Callable[[], object], description: str, seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait for a condition, which may raise while components are down."""

        def holds() -> bool:
            with contextlib.suppress(BacklineError, psycopg.OperationalError):
                return bool(condition())
            return False

        wait_for(holds, description, seconds, poll_interval_seconds=POLL_INTERVAL_SECONDS)

    def ledger_missing(self) -> int:
        """How many messages of the ledger are neither in the outbox nor counted as pruned."""
        with psycopg.connect(self.dsn, row_factory=dict_row) as connection:
            rows = connection.execute(
                statement("outbox", "ledger_conservation"), {"since": self.started_at.date()}
            ).fetchall()
        return sum(row["missing"] for row in rows)

    def run_for(self, seconds: float) -> None:
        """Keep the current situation for a while."""
        time.sleep(seconds)
