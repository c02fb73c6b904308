"""Shared by the checks: clients of the stack, names that are unique to this demo, and the ids of its messages."""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.rows import DictRow, dict_row

from backline.db.connect import translate_errors
from backline.db.statements import statement
from backline.outbox import submission
from demo.check import wait_until
from stack.lifecycle import Stack
from testkit.run_inspector import RunInspector
from testkit.sandbox_clients import EmailSummary, GatewayClient, MailCatcherClient

Row = dict[str, Any]

CAUGHT_CHANNELS = frozenset({"email", "sms", "push"})
"""Channels whose messages the sandbox keeps and shows."""


class DemoContext:
    """A running stack as an app, an operator and a recipient see it. A context manager.

    `sent`, `sent_by_gateway` (channels other than email) and `dead` are the producer's own record: the ids of all
    messages of this demo with their recipients, by the state they should end in. All names contain `tag`, so that
    demos do not interfere.
    """

    def __init__(self, stack: Stack, report_progress: Callable[[str], None]) -> None:
        """`report_progress` shows one line, replacing the last."""
        variables = stack.variables()
        self.stack = stack
        self.report_progress = report_progress
        self.started_at = datetime.now(UTC)
        self.tag = f"d{time.time_ns() // 1_000_000:x}"
        self.airflow = RunInspector(
            variables["BACKLINE_URL"], variables["BACKLINE_USER"], variables["BACKLINE_PASSWORD"]
        )
        self.mail = MailCatcherClient(variables["BACKLINE_MAIL_URL"])
        self.gateways = GatewayClient(variables["BACKLINE_MAIL_URL"])
        self.sent: dict[int, str] = {}
        self.sent_by_gateway: dict[int, str] = {}
        self.dead: dict[int, str] = {}
        self.bulk_enqueued_at: float | None = None
        self.url = variables["BACKLINE_URL"]
        self.dsn = variables["BACKLINE_DATABASE_URL"]
        self._connection: psycopg.Connection[DictRow] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
        self.airflow.__exit__(kind, exc, trace)
        self.mail.__exit__(kind, exc, trace)
        self.gateways.__exit__(kind, exc, trace)

    # --- names --------------------------------------------------------------------------------------

    def domain(self, name: str) -> str:
        """A mail domain unique to this demo."""
        return f"{name.replace('_', '-')}.{self.tag}.example.com"

    def recipients(self, name: str) -> dict[str, str]:
        """A recipient unique to this demo on each of `CAUGHT_CHANNELS`."""
        number = zlib.crc32(f"{self.tag} {name}".encode())
        return {
            "email": f"{name}@{self.domain('types')}",
            "sms": f"+49151{number:010d}"[:14],
            "push": f"device-{self.tag}-{name}",
        }

    def run_id(self, name: str) -> str:
        """A DAG run id unique to this demo."""
        return f"demo-{self.tag}-{name}"

    # --- the outbox, as used by an app --------------------------------------------------------------

    def transaction(self, *, roll_back: bool = False) -> AbstractContextManager[object]:
        """A transaction of the app."""
        return self._connect().transaction(force_rollback=roll_back)

    def query(self, domain: str, name: str, **params: Any) -> list[Row]:
        """Execute a named statement and return its rows; driver errors are translated."""
        with translate_errors():
            cursor = self._connect().execute(statement(domain, name), params)
            return cursor.fetchall()

    def enqueue(self, type_name: str, recipient: str, payload: Mapping[str, Any]) -> int:
        """One message in the current transaction, or in its own. The caller notes it in `sent` or `dead`."""
        return submission.enqueue(self._connect(), type_name, recipient, payload)

    def enqueue_many(
        self, type_name: str, recipients: Sequence[str], payloads: Iterable[Mapping[str, Any]], lane: str | None = None
    ) -> list[int]:
        """Enqueue many messages with one statement and record them in `sent`."""
        texts = [json.dumps(payload) for payload in payloads]
        rows = self.query(
            "demo", "message_enqueue_many", type=type_name, recipients=list(recipients), payloads=texts, lane=lane
        )
        ids = [int(row["id"]) for row in rows]
        self.sent.update(zip(ids, recipients, strict=True))
        return ids

    def count_states(self, ids: Iterable[int]) -> Counter[str]:
        """How many of these messages are in each state."""
        return Counter(row["state"] for row in self.query("demo", "message_states", ids=list(ids)))

    def message_status(self, message_id: int) -> Row:
        """The state of one message."""
        return self.query("outbox", "message_status", id=message_id)[0]

    # --- the mailbox, as seen by a recipient --------------------------------------------------------

    def emails_at(self, domain: str) -> list[EmailSummary]:
        """The emails that arrived at a domain, oldest first."""
        return list(self.mail.list_emails(f"*@{domain}", self.since))[::-1]

    def wait_for_emails(self, domain: str, count: int) -> list[EmailSummary]:
        """Wait for `count` emails at a domain and return them."""
        to = f"*@{domain}"

        def enough() -> bool:
            found = self.mail.count(to, self.since)
            self.report_progress(f"{found:,} of {count:,} arrived")
            return found >= count

        wait_until(enough, f"{count:,} messages at {domain}")
        return self.emails_at(domain)

    @property
    def since(self) -> float:
        """When this demo started, in seconds since 1970."""
        return self.started_at.timestamp()

    def _connect(self) -> psycopg.Connection[DictRow]:
        if self._connection is None or self._connection.closed:
            with translate_errors():
                self._connection = psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row)
        return self._connection
