"""Accepted = where it is now, per type and day; days close exactly, history goes without a trace lost."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import psycopg
import pytest

from backline.outbox import maintenance
from backline.outbox.maintenance import PARTITION_DAYS_AHEAD, run_maintenance
from backline.settings import settings
from tests.integration.outbox.support import Outbox, failed_outcome, finished_outcome

TODAY = datetime.now(UTC).date()
OLD = TODAY - timedelta(days=40)


def age(outbox: Outbox, day: date, *ids: int) -> None:
    """As if they had been made, and ended, on that day."""
    outbox.sql(
        "UPDATE backline.message SET created_at = %s, finalized_at = CASE WHEN finalized_at IS NOT NULL THEN %s::timestamptz END WHERE id = ANY (%s)",
        datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC), datetime(day.year, day.month, day.day, tzinfo=UTC), list(ids),
    )  # fmt: skip


def conservation(outbox: Outbox) -> dict[tuple[date, str], dict[str, Any]]:
    rows = outbox.run_statement("ledger_conservation", since=OLD - timedelta(days=5))
    return {(row["day"], row["type"]): row for row in rows}


def close(outbox: Outbox) -> list[date]:
    outbox.run_statement("ledger_add_closed_days")
    closed = []
    while rows := outbox.run_statement("ledger_freeze_day"):
        closed += [row["day"] for row in rows]
    return closed


def test_an_open_day_counts_what_is_there(outbox: Outbox) -> None:
    ids = outbox.enqueue_many(4)
    messages = outbox.claim(3)
    outbox.complete(finished_outcome(messages[0]), failed_outcome(messages[1]))
    row = conservation(outbox)[TODAY, "email"]
    assert (row["frozen"], row["accepted"], row["missing"]) == (False, 4, 0)
    assert (row["sent"], row["scheduled"], row["leased"], row["pending"]) == (1, 1, 1, 1)
    assert len(ids) == 4


def test_every_day_that_is_over_is_closed_in_order_and_today_is_not(outbox: Outbox) -> None:
    ids = outbox.enqueue_many(2)
    age(outbox, TODAY - timedelta(days=3), *ids)
    outbox.enqueue()
    over = [TODAY - timedelta(days=n) for n in (3, 2, 1)]
    if datetime.now(UTC) - timedelta(seconds=65) < datetime.combine(TODAY, time(), UTC):
        pytest.skip("a day is over one minute after midnight")
    assert close(outbox) == over
    assert close(outbox) == []
    found = conservation(outbox)
    assert (found[over[0], "email"]["frozen"], found[over[0], "email"]["accepted"]) == (True, 2)
    assert not found[TODAY, "email"]["frozen"]


def test_a_day_closes_only_after_the_transactions_of_its_time_have_ended(outbox: Outbox) -> None:
    age(outbox, OLD, *outbox.enqueue_many(2))
    with psycopg.connect(outbox.dsn) as late:
        late.execute('SELECT backline.enqueue(\'email\', \'late@example.com\', \'{"subject": "s", "text": "t"}\')')
        late.execute(
            "UPDATE backline.message SET created_at = %s WHERE recipient = 'late@example.com'",
            [datetime(OLD.year, OLD.month, OLD.day, tzinfo=UTC)],
        )
        assert OLD in [row["day"] for row in outbox.run_statement("ledger_add_closed_days")]
        assert outbox.run_statement("ledger_freeze_day") == []
        late.commit()
    assert outbox.run_statement("ledger_freeze_day")[0]["day"] == OLD
    assert outbox.value("SELECT accepted FROM backline.ledger WHERE day = %s", OLD) == 3


def test_a_message_missing_from_a_frozen_day_is_detected(outbox: Outbox) -> None:
    ids = outbox.enqueue_many(3)
    age(outbox, OLD, *ids)
    close(outbox)
    outbox.sql("DELETE FROM backline.message WHERE id = %s", ids[0])
    assert conservation(outbox)[OLD, "email"]["missing"] == 1


def prune(outbox: Outbox, before: date, after: int, most: int) -> tuple[int | None, bool, int]:
    [row] = outbox.run_statement("message_prune", before_day=before, after_id=after, batch_limit=most)
    return row["last"], row["old"], row["pruned"]


def test_history_is_pruned_counted_and_still_adds_up(outbox: Outbox) -> None:
    ids = outbox.enqueue_many(6)
    sent, dead, cancelled, *_ = outbox.claim(4)
    outbox.complete(finished_outcome(sent), failed_outcome(dead, dead=True))
    outbox.run(outbox.store.return_unsent([cancelled]))
    outbox.cancel(cancelled.id)
    age(outbox, OLD, *ids)
    young = outbox.enqueue()
    [message] = [found for found in outbox.claim() if found.id == young]
    outbox.complete(finished_outcome(message))

    before = TODAY - timedelta(days=30)
    assert prune(outbox, before, 0, 100) == (young, True, 0)  # not of a day that is not frozen
    close(outbox)
    assert prune(outbox, before, 0, 1) == (sent.id, True, 1)
    assert prune(outbox, before, sent.id, 100) == (young, True, 1)
    assert prune(outbox, before, cancelled.id, 2) == (ids[4], True, 0)  # those that wait are passed by
    assert prune(outbox, before, ids[-1], 100) == (young, False, 0)
    assert prune(outbox, before, young, 100) == (None, False, 0)

    row = conservation(outbox)[OLD, "email"]
    assert (row["accepted"], row["pruned"], row["dead"], row["missing"]) == (6, 2, 1, 0)
    left = {row["id"] for row in outbox.sql("SELECT id FROM backline.message")}
    assert left == {*ids, young} - {sent.id, cancelled.id}


def test_pruning_continues_after_a_batch_of_rows_to_keep(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "BATCH_LIMIT", 3)
    kept, gone, young = outbox.enqueue_many(7), outbox.enqueue_many(5), outbox.enqueue()
    for message in outbox.claim():
        if message.id in gone:
            outbox.complete(finished_outcome(message))
    age(outbox, OLD, *kept, *gone)
    assert run_maintenance(outbox.dsn)["messages_pruned"] == len(gone)
    assert {row["id"] for row in outbox.sql("SELECT id FROM backline.message")} == {*kept, young}
    assert conservation(outbox)[OLD, "email"]["missing"] == 0


def test_expired_keys_are_pruned(outbox: Outbox) -> None:
    outbox.enqueue(idempotency_key="old")
    outbox.enqueue(idempotency_key="young")
    outbox.sql("UPDATE backline.idempotency SET expires_at = clock_timestamp() - interval '1 s' WHERE key = 'old'")
    assert len(outbox.run_statement("idempotency_prune", batch_limit=10)) == 1
    assert [row["key"] for row in outbox.sql("SELECT key FROM backline.idempotency")] == ["young"]


def partitions(outbox: Outbox) -> set[str]:
    return {
        row["name"] for row in outbox.sql("SELECT relname AS name FROM pg_class WHERE relname ~ '^attempt_[0-9]{8}$'")
    }


@pytest.fixture
def no_partitions(outbox: Outbox) -> None:
    outbox.sql("SELECT backline.attempt_partitions_drop('2999-01-01')")


@pytest.mark.usefixtures("no_partitions")
def test_partitions_are_created_ahead_and_dropped_later(outbox: Outbox) -> None:
    assert outbox.run_statement("attempt_partitions_create", days=3) == [{"created": 3}]
    assert partitions(outbox) == {f"attempt_{TODAY + timedelta(days=n):%Y%m%d}" for n in range(3)}
    assert outbox.run_statement("attempt_partitions_create", days=4) == [{"created": 1}]
    outbox.sql("SELECT backline.attempt_partitions_create(%s, 2)", TODAY - timedelta(days=31))
    assert outbox.run_statement("attempt_partitions_drop", retention_days=30) == [{"dropped": 1}]
    assert f"attempt_{TODAY - timedelta(days=30):%Y%m%d}" in partitions(outbox)


@pytest.mark.usefixtures("no_partitions")
def test_attempts_go_to_their_day_or_the_default_and_are_dropped_with_it(outbox: Outbox) -> None:
    outbox.enqueue_many(2)
    one, other = outbox.claim()
    outbox.complete(finished_outcome(one))
    assert outbox.run_statement("attempt_partitions_create", days=2) == [
        {"created": 1}
    ]  # today's rows stand in the default already
    outbox.complete(finished_outcome(other))
    assert outbox.value("SELECT count(*) FROM backline.attempt_default") == 2
    outbox.sql("UPDATE backline.attempt SET started_at = started_at - interval '40 d'")
    outbox.run_statement("attempt_partitions_drop", retention_days=30)
    assert outbox.value("SELECT count(*) FROM backline.attempt") == 0


@pytest.mark.usefixtures("no_partitions")
def test_one_maintenance_run(outbox: Outbox) -> None:
    ids = outbox.enqueue_many(5)
    messages = outbox.claim(2)
    outbox.complete(finished_outcome(messages[0]))
    outbox.expire_leases(messages[1].id)
    outbox.sql("UPDATE backline.message SET expires_at = clock_timestamp() - interval '1 s' WHERE id = %s", ids[2])
    outbox.sql("UPDATE backline.message SET state = 'scheduled' WHERE id = %s", ids[3])
    age(outbox, OLD, ids[0])
    outbox.enqueue(idempotency_key="old")
    outbox.sql("UPDATE backline.idempotency SET expires_at = clock_timestamp() - interval '1 s'")
    outbox.sql(
        "UPDATE backline.message SET created_at = %s WHERE id = %s",
        datetime(OLD.year, OLD.month, OLD.day, tzinfo=UTC),
        ids[0],
    )
    settings.cache_clear()
    report = run_maintenance(outbox.dsn)
    days_closed = report.pop("days_closed")
    assert days_closed >= 39
    assert report == {
        "rescued": 1, "promoted": 1, "expired": 1, "messages_pruned": 1, "keys_pruned": 1,
        "events_pruned": 0, "daily_send_counts_pruned": 0,
        "partitions_created": PARTITION_DAYS_AHEAD - 1, "partitions_dropped": 0,
    }  # fmt: skip
    assert all(row["missing"] == 0 for row in conservation(outbox).values())
