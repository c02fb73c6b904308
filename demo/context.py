"""What the checks share: the stack from outside, this demo's own names, and the list of what it has made."""

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

from backline.airflow.rest import AirflowRest
from backline.db.connect import translate_errors
from backline.db.statements import statement
from backline.outbox import submission
from demo.check import wait_until
from demo.gateways import GatewayClient
from demo.mail import EmailSummary, MailCatcherClient
from stack.lifecycle import Stack

Row = dict[str, Any]


class DemoContext:
    """A running stack as an app, an operator and a recipient see it. A context manager.

    `sent` and `dead` are the producer's own list: the ids of all messages that this demo made, by how they should
    end; `sent_by_gateway` are those sent by other channels than email. All names hold `tag`, so that demos do not meet.
    """

    def __init__(self, stack: Stack, report_progress: Callable[[str], None]) -> None:
        """`say` shows what is going on, over what it showed before."""
        exports = stack.variables()
        self.stack = stack
        self.report_progress = report_progress
        self.started_at = datetime.now(UTC)
        self.tag = f"d{time.time_ns() // 1_000_000:x}"
        self.airflow = AirflowRest(exports["BACKLINE_URL"], exports["BACKLINE_USER"], exports["BACKLINE_PASSWORD"])
        self.mail = MailCatcherClient(exports["BACKLINE_MAIL_URL"])
        self.gateways = GatewayClient(exports["BACKLINE_MAIL_URL"])
        self.sent: dict[int, str] = {}
        self.sent_by_gateway: dict[int, str] = {}
        self.dead: dict[int, str] = {}
        self.bulk_enqueued_at: float | None = None
        self.url = exports["BACKLINE_URL"]
        self.dsn = exports["BACKLINE_DATABASE_URL"]
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
        """A mail domain of this demo's own."""
        return f"{name.replace('_', '-')}.{self.tag}.example.com"

    def recipients(self, name: str) -> dict[str, str]:
        """A recipient of this demo's own on each channel."""
        number = zlib.crc32(f"{self.tag} {name}".encode())
        return {
            "email": f"{name}@{self.domain('types')}",
            "sms": f"+49151{number:010d}"[:14],
            "push": f"device-{self.tag}-{name}",
        }

    def run_id(self, name: str) -> str:
        """A DAG run's id of this demo's own."""
        return f"demo-{self.tag}-{name}"

    # --- the outbox, as an app ----------------------------------------------------------------------

    def transaction(self, *, roll_back: bool = False) -> AbstractContextManager[object]:
        """A transaction of the app's own."""
        return self._connect().transaction(force_rollback=roll_back)

    def query(self, domain: str, name: str, **params: Any) -> list[Row]:
        """Rows of a named statement; the driver's errors come as ours."""
        with translate_errors():
            cursor = self._connect().execute(statement(domain, name), params)
            return cursor.fetchall()

    def enqueue(self, type_name: str, recipient: str, payload: Mapping[str, Any]) -> int:
        """One message in the current transaction, or in its own. The caller notes it in `sent` or `dead`."""
        return submission.enqueue(self._connect(), type_name, recipient, payload)

    def enqueue_many(
        self, type_name: str, recipients: Sequence[str], payloads: Iterable[Mapping[str, Any]], lane: str | None = None
    ) -> list[int]:
        """Many messages at once; notes them in `sent`."""
        texts = [json.dumps(payload) for payload in payloads]
        rows = self.query(
            "demo", "message_enqueue_many", type=type_name, recipients=list(recipients), payloads=texts, lane=lane
        )
        ids = [int(row["id"]) for row in rows]
        self.sent.update(zip(ids, recipients, strict=True))
        return ids

    def count_states(self, ids: Iterable[int]) -> Counter[str]:
        """How many of these messages are in which state."""
        return Counter(row["state"] for row in self.query("demo", "message_states", ids=list(ids)))

    def message_status(self, message_id: int) -> Row:
        """Where one message stands."""
        return self.query("outbox", "message_status", id=message_id)[0]

    # --- the mailbox, as a recipient ----------------------------------------------------------------

    def emails_at(self, domain: str) -> list[EmailSummary]:
        """What arrived at a domain of this demo's, oldest first."""
        return list(self.mail.list_emails(f"*@{domain}", self.since))[::-1]

    def wait_for_emails(self, domain: str, count: int) -> list[EmailSummary]:
        """As `arrivals`, once there are so many."""
        to = f"*@{domain}"

        def enough() -> bool:
            found = self.mail.count(to, self.since)
            self.report_progress(f"{found:,} of {count:,} arrived")
            return found >= count

        wait_until(enough, f"{count:,} messages at {domain}")
        return self.emails_at(domain)

    @property
    def since(self) -> float:
        """When this demo began, in seconds since 1970."""
        return self.started_at.timestamp()

    def _connect(self) -> psycopg.Connection[DictRow]:
        if self._connection is None or self._connection.closed:
            with translate_errors():
                self._connection = psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row)
        return self._connection
