"""Whatever PostgreSQL can hold in a column of a row affects only what the row is about: lanes, readers and maintenance go on.

The columns come from the catalogue, so a new one is covered; a new table or type must be added here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.sql import SQL, Composable, Identifier
from pydantic_core import to_json

from backline import audit_trail
from backline.channels.base import Message, Receipt
from backline.db.connect import session
from backline.db.statements import statement
from backline.dead_letters.export import export
from backline.dead_letters.store import DeadLetterStore, Filter
from backline.outbox import queries
from backline.outbox.delivery import Delivery
from backline.outbox.dispatcher import Dispatcher
from backline.outbox.maintenance import run_maintenance
from backline.preferences.repository import SuppressionFilters, get_preferences, list_suppressions
from backline.settings import DEFAULT_RETRY_POLICIES, LaneSettings, OutboxSettings
from backline.webhooks.endpoints import list_endpoints
from tests.integration.outbox.support import Outbox

LANE = LaneSettings(channel="email", batch_size=100)
DEEP = "[" * 900 + "]" * 900
DEEPER = "[" * 6000 + "]" * 6000
TEXTS = [
    "''", "' '", r"E'\t\r\n'", r"E'\u0001\u001b]0;title\u0007'", r"E'\u202e\u200b\ufeff\uffff'", r"E'\U0010ffff'", "repeat('é', 300)",
    "repeat('x', 100000)", "'%s %(id)s {0} {{ x }} \\x00'", "'no_such_thing'", "'24:00'", "'infinity'", "'<>'", "'@'", "'*'",
    r"E'=?utf-8?q?=00?='", "'xn--a@xn--'", "'user:'",
]  # fmt: skip
TIMES = [
    "'infinity'",
    "'-infinity'",
    "'4713-01-01 BC'",
    "'0001-01-01'",
    "'9999-12-31'",
    "'10000-01-01'",
    "'294276-12-31'",
]
VALUES: Mapping[str, list[str]] = {
    "text": TEXTS,
    "timestamp with time zone": [*TIMES, "'0001-01-01 00:00+14'", "'9999-12-31 23:59:59.999999-14'"],
    "timestamp without time zone": TIMES,
    "date": ["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'0001-01-01'", "'9999-12-31'", "'5874897-12-31'"],
    "time without time zone": ["'24:00'", "'00:00'", "'23:59:59.999999'"],
    "interval": ["'infinity'", "'-infinity'", "'178000000 years'", "'-178000000 years'", "'1 month -1 day 1 us'"],
    "jsonb": [
        "'null'", "'17'", "'\"text\"'", "'[]'", "'{}'", "'{\"\": null}'", "'{\"subject\": 1e5000, \"text\": 1e-5000}'",
        f"'{{\"subject\": \"x\", \"text\": {'9' * 5000}}}'", f"'{{\"subject\": \"x\", \"text\": {DEEP}}}'", f"'{DEEPER}'",
        "'{\"subject\": 1e400, \"first\": 1e400, \"last\": \"x\"}'", r"""'{"subject": "\u0001\uffff", "text": "\ud83d\ude00"}'""",
    ],
    "numeric": ["'NaN'", "'Infinity'", "'-Infinity'", "1e5000", "-1e5000", "1e-5000"],
    "real": ["'NaN'", "'Infinity'", "'-Infinity'", "1e38", "1e-45"],
    "double precision": ["'NaN'", "'Infinity'", "'-Infinity'", "1e308", "5e-324"],
    "smallint": ["-32768", "32767", "0", "-1"],
    "integer": ["-2147483648", "2147483647", "0", "-1"],
    "bigint": ["-9223372036854775808", "9223372036854775807", "0", "-1"],
    "boolean": ["true", "false"],
    "uuid": ["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
    "bytea": [r"'\x'", r"'\x00ff'"],
    "backline.message_state": [
        f"'{name}'" for name in ("scheduled", "pending", "leased", "sent", "suppressed", "cancelled", "expired", "dead")
    ],
}  # fmt: skip
ARRAYS = ["'{}'", "'{NULL}'", "'[5:6]={1,2}'", "'{{1,2},{3,4}}'", "'{1,NULL,1}'"]

ROWS: Mapping[str, LiteralString] = {
    "message": "SELECT",  # each victim has one
    "attempt": """INSERT INTO backline.attempt (message_id, number, started_at, duration_ms, outcome, dispatcher, dag_run)
        VALUES (%(id)s, 1, now(), 1, 'scheduled', 1, 'dispatch_email/run')""",
    "idempotency": """INSERT INTO backline.idempotency (type, channel, key, hash, message_id, expires_at)
        VALUES ('email', 'email', %(id)s::text, '', %(id)s, now())""",
    "suppression": """INSERT INTO backline.suppression (channel, address, reason, source)
        VALUES ('email', %(address)s, 'manual', 'test')""",
    "opt_out": "INSERT INTO backline.opt_out (channel, address, topic, source) VALUES ('email', %(address)s, '*', 'test')",
    "recipient_preference": """INSERT INTO backline.recipient_preference (channel, address, zone, quiet_from, quiet_until, per_day)
        VALUES ('email', %(address)s, 'Europe/Berlin', '03:00', '03:00', 1)""",
    "daily_send_count": """INSERT INTO backline.daily_send_count (channel, address, day, per_day, message_ids)
        VALUES ('email', %(address)s, now()::date, 1, ARRAY[1])""",
    "delivery_event": """INSERT INTO backline.delivery_event (message_id, channel, event, source, source_id, at)
        VALUES (%(id)s, 'email', 'bounced', 'ses', %(id)s::text, now())""",
    "dead_letter": """INSERT INTO backline.dead_letter (kind, name, message_id, class, cause, attempts, failed_at)
        VALUES ('message', 'email', %(id)s, 'unknown', 'test', 1, now())""",
    "late_run": "INSERT INTO backline.late_run (dag_id, run_id, deadline_seconds) VALUES ('job', %(id)s::text, 1)",
    "alert_group": "INSERT INTO backline.alert_group (key) VALUES (%(id)s::text)",
    "webhook_endpoint": """INSERT INTO backline.webhook_endpoint (id, url, event_types)
        VALUES ('ep_' || %(id)s::text, 'https://example.com', '{*}')""",
    "audit_trail": """INSERT INTO backline.audit_trail (actor, action, target, request_id)
        VALUES ('ann', 'message.send', 'message/' || %(id)s::text, 'r')""",
}
OWN_TABLES = {
    "migration", "message_type", "channel", "field_rule", "lane", "time_zone", "topic", "dispatcher", "rate_bucket", "ledger", "ledger_day", "scan_cursor", "job_result",
    "payment_approval", "reconciliation", "reconciliation_discrepancy", "webhook_secret",
}  # fmt: skip
"""What no entry point fills: Backline writes its own values there."""
COLUMNS = """
SELECT c.relname AS table, a.attname AS column, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL) AS type
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid JOIN pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'backline'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity = ''
  AND coalesce(pg_get_expr(d.adbin, d.adrelid), '') NOT LIKE 'nextval%' ORDER BY 1, a.attnum
"""


class Receiver:
    """Accepts every message."""

    name = "email"
    connections = 1
    messages_per_session = 1

    def __init__(self) -> None:
        self.received: list[int] = []

    def prepare(self, message: Message) -> int:
        return message.id

    def session(self) -> Receiver:
        return self

    async def send(self, prepared: int) -> Receipt:
        self.received.append(prepared)
        return Receipt("200", "fine", "id")

    async def close(self) -> None:
        pass


def columns(outbox: Outbox) -> Iterator[tuple[str, str, list[str]]]:
    """Table, column, and the values to try there."""
    for row in outbox.sql(COLUMNS):
        table, name, kind = row["table"], row["column"], row["type"]
        if table in OWN_TABLES:
            continue
        assert table in ROWS, f"add a row of backline.{table} to ROWS, or its name to OWN_TABLES"
        element, is_array = kind.removesuffix("[]"), kind.endswith("[]")
        assert element in VALUES, f"add values of the type {kind} to VALUES"
        yield table, name, ["NULL", *(ARRAYS if is_array else VALUES[element])]


def change(outbox: Outbox, table: str, changes: Mapping[str, str]) -> bool:
    """Add a message and, of another table, a row about it, with these values; False if PostgreSQL refuses them."""
    address = f"v{random.getrandbits(60):x}@example.com"
    message_id = outbox.enqueue(address)
    pairs: list[Composable] = [SQL("{} = {}").format(Identifier(name), SQL(value)) for name, value in changes.items()]
    assignments = SQL(", ").join(pairs)
    try:
        with outbox.connection.transaction():
            if table == "message":
                where: Composable = SQL("id = {}").format(message_id)
            else:
                outbox.connection.execute(ROWS[table], {"id": message_id, "address": address})
                where = SQL("xmin = pg_current_xact_id()::xid")
            outbox.connection.execute(
                SQL("UPDATE backline.{} SET {} WHERE {}").format(Identifier(table), assignments, where)
            )
    except (psycopg.DataError, psycopg.IntegrityError, psycopg.OperationalError, psycopg.ProgrammingError):
        return False
    return True


def check_neighbours(outbox: Outbox, good: list[int]) -> None:
    """A dispatcher, the maintenance and all readers handle what is there; the good messages are delivered once."""
    receiver = Receiver()
    delivery = Delivery(receiver, DEFAULT_RETRY_POLICIES, lambda: 0.5)
    dispatcher = Dispatcher("email.normal", LANE, OutboxSettings(), outbox.dsn, receiver, delivery, once=True)
    report = outbox.run(dispatcher.run())
    assert report.end_reason == "drained"
    assert [receiver.received.count(message) for message in good] == [1] * len(good)
    run_maintenance(outbox.dsn)
    read_all(outbox)


def read_all(outbox: Outbox) -> None:
    with session(outbox.dsn, name="test") as connection:
        now = datetime.now(UTC)
        messages = [row["id"] for row in outbox.sql("SELECT id FROM backline.message")]
        read: list[object] = [
            *(queries.get_message(connection, message) for message in messages),
            *(queries.get_group(connection, message) for message in messages[:1]),
            queries.search_messages(connection, queries.MessageFilters(since=now - timedelta(days=1)), None, 100, 10.0),
            list_suppressions(connection, SuppressionFilters(), None, 100),
            list_endpoints(connection),
            audit_trail.search(connection, audit_trail.Filters(), None, 100),
        ]
        victims = outbox.sql("SELECT DISTINCT recipient FROM backline.message WHERE recipient ~ '^v[0-9a-f]+@'")
        read += [get_preferences(connection, "email", row["recipient"]) for row in victims]
        store = DeadLetterStore(connection)
        letters = store.list_page(Filter())
        read += [
            letters,
            [store.get(letter["id"]) for letter in letters],
            store.failure_groups(now - timedelta(days=1)),
        ]
        for form in ("jsonl", "csv"):
            read.append(list(export(store.iterate(Filter()), form)))
        limits = {"retention_seconds": 0.0, "max_count": 0, "batch_limit": 100}
        read.append(connection.execute(statement("dead_letters", "purge_candidates"), limits).fetchall())
    to_json(read)
    json.dumps(json.loads(to_json(read)), allow_nan=False)


def try_values(outbox: Outbox, table: str, values: Mapping[str, list[str]]) -> str | None:
    """Each value of each of these columns in a row of its own, among good messages; what went wrong, or None."""
    outbox.truncate()
    good = [outbox.enqueue()]
    for column, literals in values.items():
        for literal in literals:
            change(outbox, table, {column: literal})
    good.append(outbox.enqueue())
    try:
        check_neighbours(outbox, good)
    except Exception as exc:  # noqa: BLE001 - the column is found first
        return f"{type(exc).__name__}: {str(exc)[:300]}"
    return None


@pytest.mark.timeout(300)
def test_any_value_of_a_column_affects_only_its_row(outbox: Outbox) -> None:
    tables: dict[str, dict[str, list[str]]] = {}
    for table, column, values in columns(outbox):
        tables.setdefault(table, {})[column] = values
    assert tables.keys() == ROWS.keys()
    failed = []
    for table, possible in tables.items():
        if problem := try_values(outbox, table, possible):
            alone = [(name, try_values(outbox, table, {name: values})) for name, values in possible.items()]
            failed += [f"{table}.{name}: {found}" for name, found in alone if found] or [f"{table}: {problem}"]
    assert not failed, "\n".join(failed)


def check_many(outbox: Outbox, draw: st.DataObject) -> None:
    known = list(columns(outbox))
    outbox.truncate()
    good = [outbox.enqueue()]
    rows = []
    for _ in range(3):
        table = draw.draw(st.sampled_from(sorted(ROWS)))
        possible = {name: values for other, name, values in known if other == table}
        names = draw.draw(st.lists(st.sampled_from(sorted(possible)), min_size=1, max_size=4, unique=True))
        changes = {name: draw.draw(st.sampled_from(possible[name])) for name in names}
        rows.append((table, changes, change(outbox, table, changes)))
    good.append(outbox.enqueue())
    check_neighbours(outbox, good)


@pytest.mark.extended
@pytest.mark.timeout(900)
@settings(max_examples=300)
@given(data=st.data())
def test_any_values_of_several_columns(shared_database: str, data: st.DataObject) -> None:
    with Outbox(shared_database) as outbox:
        check_many(outbox, data)


@pytest.mark.long
@pytest.mark.timeout(7200)
@settings(max_examples=20_000)
@given(data=st.data())
def test_any_values_of_several_columns_for_an_hour(shared_database: str, data: st.DataObject) -> None:
    with Outbox(shared_database) as outbox:
        check_many(outbox, data)
