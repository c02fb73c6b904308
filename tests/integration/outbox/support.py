"""What the outbox's tests share: a Store to call from plain code, and short ways to make and read rows."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar, LiteralString, Self, TypeVar

import psycopg
from psycopg.rows import DictRow, dict_row
from pydantic import create_model

from backline.db.connect import Database
from backline.db.statements import statement
from backline.messages.base import MessageType
from backline.messages.registry import all_types
from backline.messages.sync import sync_type
from backline.outbox.store import LeasedMessage, Outcome, Store
from backline.settings import settings

T = TypeVar("T")
PAYLOAD = {"subject": "Hello", "text": "Hi"}
MAX_RESCUES = 5
HEARTBEAT_TIMEOUT = 10.0

ENQUEUE: LiteralString = """
SELECT backline.enqueue(type => %(type)s, recipient => %(recipient)s, payload => %(payload)s::jsonb, due_at => %(due_at)s,
    priority => %(priority)s, idempotency_key => %(idempotency_key)s, expires_at => %(expires_at)s) AS id
"""


class Outbox:
    """A migrated database: its Store, run to the end of each call, and a plain connection beside it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.runner = asyncio.Runner()
        self.database = Database(dsn, name="test", retry_timeout=0)
        self.store = Store(self.database)
        self.connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        self.connection.close()

    def truncate(self) -> None:
        """Nothing in it but the registered message types."""
        self.sql(
            "TRUNCATE backline.message, backline.attempt, backline.idempotency, backline.dispatcher, backline.rate_bucket,"
            " backline.ledger_day, backline.ledger, backline.suppression, backline.opt_out, backline.recipient_preference,"
            " backline.daily_send_count, backline.delivery_event, backline.dead_letter, backline.late_run, backline.alert_group,"
            " backline.webhook_endpoint, backline.webhook_secret, backline.audit_trail"
        )
        self.sql("DELETE FROM backline.message_type WHERE name <> ALL (%s)", [kind.type_name for kind in all_types()])

    def run(self, call: Awaitable[T]) -> T:
        async def wait() -> T:
            return await call

        return self.runner.run(wait())

    def sql(self, query: LiteralString, *params: Any) -> list[DictRow]:
        cursor = self.connection.execute(query, params or None)
        return cursor.fetchall() if cursor.description else []

    def run_statement(self, name: str, **params: Any) -> list[DictRow]:
        """A statement of outbox.sql."""
        cursor = self.connection.execute(statement("outbox", name), params)
        return cursor.fetchall() if cursor.description else []

    def value(self, query: LiteralString, *params: Any) -> Any:
        [row] = self.sql(query, *params)
        [value] = row.values()
        return value

    def enqueue(self, recipient: str = "ann@example.com", **options: Any) -> int:
        """One email by SQL; options are backline.enqueue's own."""
        values = {
            "type": "email", "payload": json.dumps(PAYLOAD), "due_at": None, "priority": None, "idempotency_key": None,
            "expires_at": None, **options,
        }  # fmt: skip
        [row] = self.connection.execute(ENQUEUE, {"recipient": recipient, **values}).fetchall()
        return int(row["id"])

    def enqueue_many(self, count: int, **options: Any) -> list[int]:
        """So many emails to recipients of one domain, numbered."""
        recipients = [f"r{number}@example.com" for number in range(count)]
        ids: list[int] = self.value(
            "SELECT backline.enqueue_many(%s, %s::text[], array_fill(%s::jsonb, ARRAY[%s]), priority => %s)",
            options.get("type", "email"), recipients, json.dumps(PAYLOAD), count, options.get("priority"),
        )  # fmt: skip
        return ids

    def message(self, message_id: int) -> DictRow:
        [row] = self.sql("SELECT * FROM backline.message WHERE id = %s", message_id)
        return row

    def cancel(self, message_id: int) -> str | None:
        """Cancel a message; its state then, or None if it was final already."""
        rows = self.run_statement("message_cancel", id=message_id)
        return rows[0]["state"] if rows else None

    def retry(self, message_id: int) -> bool:
        """Revive a dead message; False if that is not possible."""
        return bool(self.run_statement("message_retry", id=message_id))

    def attempts(self, message_id: int) -> list[DictRow]:
        """The attempts of one message, first to last."""
        return self.run_statement("message_attempts", id=message_id)

    def state_counts(self) -> dict[str, int]:
        rows = self.sql("SELECT state, count(*) AS count FROM backline.message GROUP BY state")
        return {row["state"]: row["count"] for row in rows}

    def dispatcher(self, lane: str = "email.normal", slots: int = 16) -> int:
        """A registered dispatcher whose heart beat just now."""
        registered = self.run(self.store.register(lane, slots, None))
        assert registered is not None
        return registered[0]

    def claim(self, limit: int = 100, dispatcher: int | None = None, lane: str = "email.normal") -> list[LeasedMessage]:
        return self.run(self.store.claim(lane, limit, dispatcher, 60.0))

    def claim_rescued(self, dispatcher: int | None = None, lane: str = "email.normal") -> list[LeasedMessage]:
        return self.run(self.store.claim_rescued(lane, dispatcher, 60.0))

    def complete(self, *outcomes: Outcome, dispatcher: int | None = None) -> dict[int, str]:
        return self.run(self.store.complete(outcomes, dispatcher, "dag/run"))

    def rescue(self, max_rescues: int = MAX_RESCUES) -> int:
        return self.run(self.store.rescue(max_rescues, HEARTBEAT_TIMEOUT))

    def expire_leases(self, *ids: int) -> None:
        self.sql(
            "UPDATE backline.message SET leased_until = clock_timestamp() - interval '1 s' WHERE id = ANY (%s)",
            list(ids),
        )

    def make_due(self, *ids: int) -> None:
        self.sql(
            "UPDATE backline.message SET due_at = clock_timestamp() - interval '1 s' WHERE id = ANY (%s)", list(ids)
        )

    def stop_heartbeat(self, dispatcher: int) -> None:
        self.sql(
            "UPDATE backline.dispatcher SET heartbeat_at = clock_timestamp() - interval '1 h' WHERE id = %s", dispatcher
        )

    def add_type(
        self, name: str, /, *, channels: Sequence[str] = ("email",), secret: Sequence[str] = (), **fields: Any
    ) -> None:
        """A made-up message type, known to the database only; `fields` as for pydantic's create_model."""
        kind: type[MessageType] = create_model(  # type: ignore[call-overload]
            name, __base__=MessageType, secret_fields=(ClassVar[frozenset[str]], frozenset(secret)),
            max_attempts=(ClassVar[int], 3), **dict.fromkeys(secret, (str, ...)), **fields,
        )  # fmt: skip
        kind.declare(name, {channel: f"{channel}.normal" for channel in channels})
        sync_type(self.connection, kind, settings())


def finished_outcome(message: LeasedMessage, state: str = "sent", **details: Any) -> Outcome:
    """The outcome of an attempt that took no time."""
    return Outcome(message_id=message.id, token=message.token, state=state, started=message.lease_deadline - 60.0,
                   ended=message.lease_deadline - 60.0, **details)  # fmt: skip


def failed_outcome(message: LeasedMessage, *, dead: bool = False, delay: float = 60.0) -> Outcome:
    return finished_outcome(message, "dead" if dead else "scheduled", delay=0.0 if dead else delay,
                 error_class="network", error="no route")  # fmt: skip


def new_token() -> uuid.UUID:
    return uuid.uuid4()


def claim_from_head(limit: int) -> dict[str, Any]:
    """Parameters of message_claim for a lane's first messages."""
    return {
        "lane": "email.normal", "batch_limit": limit, "token": new_token(), "dispatcher": None, "lease_seconds": 60.0,
        "after_rank": -32768, "due_at": "-infinity", "id": 0,
    }  # fmt: skip


async def wait_until(condition: Callable[[], Awaitable[bool] | bool], seconds: float = 10.0) -> None:
    """Wait for a condition; an assertion error when it does not come about."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if isinstance(found, bool):
                if found:
                    return
            elif await found:
                return
            await asyncio.sleep(0.005)
