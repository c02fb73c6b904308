"""The reference app's generated data: consistent, reproducible, without real addresses."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, date, datetime
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from psycopg.sql import SQL, Identifier

from backline.db.statements import statement
from backline.encryption import Encryptor
from backline.errors import InvalidInput
from stack.reference_app import SEED_STEPS, invariant_violations, seed
from tests.integration.conftest import TEST_FERNET_KEY

TODAY = date(2026, 3, 31)
FILLED = {table for tables in SEED_STEPS.values() for table in tables}
FILLED_BY_JOBS = {"audit_archives", "disputes", "integration_rejects", "invoice_documents"}
FICTIONAL = re.compile(r"\+1(212|213)555010?\d\d|\+447700900\d{3}|\+493023125\d{3}|\+3363998\d{4}")
# Every row of a table as one number, without encrypted text, which differs each time.
DIGEST = SQL("SELECT sum(hashtextextended((to_jsonb(t) - 'token_encrypted')::text, 0)::numeric) FROM app.{table} AS t")


def digest(dsn: str) -> dict[str, object]:
    with psycopg.connect(dsn) as connection:
        names = [name for name, _ in connection.execute(statement("reference_app", "row_counts"))]
        found = {name: connection.execute(DIGEST.format(table=Identifier(name))).fetchone() for name in names}
    return {name: row[0] for name, row in found.items() if row}


def rows(dsn: str, query: LiteralString) -> list[dict[str, Any]]:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        return connection.execute(query).fetchall()


def test_the_data_is_consistent(seeded_database: str) -> None:
    assert invariant_violations(seeded_database) == {}


BREAKING: dict[str, LiteralString] = {
    "an order is paid if and only if its full amount was captured": (
        "UPDATE app.payments SET amount_minor = amount_minor + 1 WHERE state = 'captured' AND id % 2 = 0"
    ),
    "a payment's refunded amount is the sum of its refunds": "DELETE FROM app.refunds",
    "a refunded order has a payment that was refunded in full": (
        "UPDATE app.payments SET refunded_minor = refunded_minor - 1 WHERE refunded_minor > 0"
    ),
    "a payment counts its attempts, and a captured one has a captured attempt": (
        "UPDATE app.payments SET attempts = attempts + 1"
    ),
    "a product's stock is the sum of its movements": "UPDATE app.products SET stock = stock + 1",
    "a product's reserved quantity is that of its open orders": (
        "UPDATE app.products SET reserved = reserved + 1 WHERE stock > reserved"
    ),
    "an order line has a sale movement if and only if its order was shipped": (
        "DELETE FROM app.stock_movements WHERE reason = 'sold' AND id % 2 = 0"
    ),
    "an order's history leads step by step to its state": "DELETE FROM app.order_history WHERE to_state = 'reserved'",
    "a paid order has an invoice of its total, a refunded one a credit note": (
        "UPDATE app.invoices SET net_minor = net_minor + 1"
    ),
    "an invoice's sums are those of its lines": "DELETE FROM app.invoice_lines WHERE number = 1",
    "an invoice series stores its last number, and numbers follow time": (
        "UPDATE app.invoice_series SET last_number = last_number + 1"
    ),
    "an offer's allocated quantity is the sum of its allocations": "UPDATE app.offers SET allocated = allocated + 1",
    "an allocated purchase order is allocated in full, to offers of its product": (
        "UPDATE app.allocations SET quantity = quantity + 1"
    ),
    "a subscription's dates are whole intervals after its start": (
        "UPDATE app.subscriptions SET next_on = app.anchor_date((next_on + interval '1 month')::date, anchor_day) WHERE interval_months = 3"
    ),
    "an order from a cart has the cart's lines, and an ordered cart has an order": (
        "UPDATE app.cart_lines SET quantity = quantity + 1"
    ),
    "no user has activity from before the account was created": (
        "UPDATE app.audit_log SET at = at - interval '10 years' WHERE user_id IS NOT NULL"
    ),
    "no event lies in the future": "UPDATE app.events SET at = clock_timestamp() + interval '1 hour'",
}


@pytest.mark.parametrize("rule", BREAKING)
def test_a_violated_rule_is_found(rule: str, app: psycopg.Connection[DictRow]) -> None:
    assert app.execute(BREAKING[rule]).rowcount > 0
    found = {row["rule"]: row["broken"] for row in app.execute(statement("reference_app", "invariant_violations"))}
    assert found.get(rule, 0) > 0


def test_every_table_has_rows_except_those_that_jobs_fill(seeded_database: str) -> None:
    with psycopg.connect(seeded_database) as connection:
        counts: dict[str, int] = dict(connection.execute(statement("reference_app", "row_counts")).fetchall())
    assert set(counts) == FILLED | FILLED_BY_JOBS
    assert {name for name, count in counts.items() if not count} == FILLED_BY_JOBS
    assert 8_000 < sum(counts.values()) < 15_000


def test_the_same_seed_scale_and_day_give_the_same_rows(empty_database: str) -> None:
    result = seed(empty_database, 1, 7, today=TODAY)
    first = digest(empty_database)
    assert seed(empty_database, 1, 7, today=TODAY, replace=True).rows == result.rows
    assert digest(empty_database) == first
    seed(empty_database, 1, 8, today=TODAY, replace=True)
    other = digest(empty_database)
    same = {name for name in first if first[name] == other[name]}
    assert same <= FILLED_BY_JOBS | {"integrations", "integration_endpoints"}


@pytest.mark.parametrize("today", [date(2024, 2, 29), date(2026, 1, 31), date(2026, 12, 31), date(2026, 3, 1)])
def test_any_day_can_be_today(today: date, empty_database: str) -> None:
    seed(empty_database, 1, 3, today=today)
    assert set(invariant_violations(empty_database)) <= {"no event lies in the future"}
    due = rows(empty_database, "SELECT min(next_on) AS first FROM app.subscriptions WHERE state = 'active'")
    assert due == [{"first": today}]


def test_rows_are_replaced_only_on_request(seeded_database: str) -> None:
    before = digest(seeded_database)
    with pytest.raises(InvalidInput, match=r"replace: schema app already has rows \(.*users 150.*--replace"):
        seed(seeded_database, 1)
    assert digest(seeded_database) == before
    reported: list[str] = []
    seed(seeded_database, 2, replace=True, report=reported.append)
    assert re.match(r"emptying schema app: .*users 150", reported[0])
    assert rows(seeded_database, "SELECT count(*) AS n, max(id) AS last FROM app.users") == [{"n": 300, "last": 300}]
    assert invariant_violations(seeded_database) == {}


def test_a_failure_changes_nothing(seeded_database: str) -> None:
    before = digest(seeded_database)
    with psycopg.connect(seeded_database) as connection:
        connection.execute("ALTER TABLE app.events ADD CONSTRAINT never CHECK (name <> 'visited') NOT VALID")
    with pytest.raises(Exception, match="never"):
        seed(seeded_database, 1, 9, replace=True)
    assert digest(seeded_database) == before


@pytest.mark.parametrize("scale", [0, -1, 1001])
def test_a_scale_out_of_range_is_rejected(scale: int) -> None:
    with pytest.raises(InvalidInput, match=r"scale: must be from 1 .* to 1000"):
        seed("host=/nowhere", scale)


def test_a_seed_out_of_range_is_rejected() -> None:
    with pytest.raises(InvalidInput, match="seed: must be"):
        seed("host=/nowhere", 1, 2**63)


def test_no_address_is_real(seeded_database: str) -> None:
    people = rows(seeded_database, "SELECT email, name, phone FROM app.users")
    assert all(re.fullmatch(r"(customer|admin)\d{6}@example\.(com|org|net)", person["email"]) for person in people)
    assert all(re.fullmatch(r"(Customer|Admin) \d{6}", person["name"]) for person in people)
    phones = [person["phone"] for person in people if person["phone"]]
    assert len(phones) > 50
    assert [phone for phone in phones if not FICTIONAL.fullmatch(phone)] == []
    for query in ("SELECT ip FROM app.sessions", "SELECT ip FROM app.audit_log"):
        found = {str(row["ip"]).rpartition(".")[0] for row in rows(seeded_database, query)}
        assert found <= {"192.0.2", "198.51.100", "203.0.113"}


def test_seeding_enqueues_nothing(seeded_database: str) -> None:
    assert rows(seeded_database, "SELECT count(*) AS n FROM backline.message") == [{"n": 0}]


def test_every_job_has_work(seeded_database: str) -> None:
    """Rows that are due, expired, stuck or open on the day of the seed."""
    now = datetime.now(UTC)
    queries: dict[str, LiteralString] = {
        "expired sessions": "SELECT count(*) FROM app.sessions WHERE expires_at < %(now)s",
        "inactive sessions": "SELECT count(*) FROM app.sessions WHERE ended_at IS NULL AND last_seen_at < %(now)s - interval '7 days'",
        "expired tokens": "SELECT count(*) FROM app.tokens WHERE expires_at < %(now)s",
        "idle carts": "SELECT count(*) FROM app.carts WHERE state = 'open' AND updated_at < %(now)s - interval '30 days'",
        "notifications due": "SELECT count(*) FROM app.scheduled_notifications WHERE state = 'scheduled' AND due_at < %(now)s",
        "payments to retry": "SELECT count(*) FROM app.payments WHERE next_attempt_at IS NOT NULL",
        "subscriptions due": "SELECT count(*) FROM app.subscriptions WHERE state = 'active' AND next_on = (%(now)s AT TIME ZONE 'UTC')::date",
        "renewals tomorrow": "SELECT count(*) FROM app.subscriptions WHERE state = 'active' AND next_on = (%(now)s AT TIME ZONE 'UTC')::date + 1",
        "paused subscriptions": "SELECT count(*) FROM app.subscriptions WHERE state = 'paused' AND resume_on IS NOT NULL",
        "stuck orders": "SELECT count(*) FROM app.orders WHERE state = 'pending' AND state_since < %(now)s - interval '1 day'",
        "open purchase orders": "SELECT count(*) FROM app.purchase_orders WHERE state = 'open'",
        "password guessing": "SELECT count(*) FROM (SELECT FROM app.audit_log WHERE outcome = 'failure' GROUP BY ip, identity HAVING count(*) >= 15) AS t",
        "open privacy requests": "SELECT count(*) FROM app.privacy_requests WHERE completed_at IS NULL",
        "local changes to push": "SELECT count(*) FROM app.integration_records WHERE local_at IS NOT NULL",
        "unregistered devices": "SELECT count(*) FROM app.push_tokens WHERE removed_at IS NOT NULL",
    }
    with psycopg.connect(seeded_database) as connection:
        found = {what: connection.execute(query, {"now": now}).fetchone() for what, query in queries.items()}
    assert [what for what, row in found.items() if not row or not row[0]] == []


def test_valid_tokens_decrypt_to_the_secret_of_their_hash(seeded_database: str) -> None:
    encryptor = Encryptor([TEST_FERNET_KEY])
    live = rows(
        seeded_database,
        "SELECT kind, token_encrypted, token_hash = sha256(convert_to('', 'UTF8')) AS empty, encode(token_hash, 'hex') AS hash FROM app.tokens WHERE token_encrypted IS NOT NULL",
    )
    assert {row["kind"] for row in live} == {"password_reset", "email_verification", "otp"}
    for row in live:
        plaintext = encryptor.decrypt("token", row["token_encrypted"])
        assert hashlib.sha256(plaintext.encode()).hexdigest() == row["hash"]
