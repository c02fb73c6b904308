"""The cost of a claim, whatever is in the table; and claims that resume at the last position."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from backline.db import connect
from backline.db.statements import statement
from backline.outbox import store
from backline.outbox.store import Store
from tests.integration.outbox.support import PAYLOAD, Outbox, claim_from_head, wait_until

NOW = datetime.now(UTC)


def fill(outbox: Outbox, state: str, count: int) -> None:
    due_at = NOW + timedelta(days=1) if state == "scheduled" else NOW
    outbox.sql(
        "INSERT INTO backline.message (type, channel, lane, priority, state, recipient, payload, due_at, max_attempts, finalized_at)"
        " SELECT 'email', 'email', 'email.normal', 5, %s, 'r' || n || '@example.com', %s, %s, 6, %s FROM generate_series(1, %s) AS n",
        state, json.dumps(PAYLOAD), due_at, NOW if state == "sent" else None, count,
    )  # fmt: skip


def buffers_touched(outbox: Outbox, claim: dict[str, Any]) -> int:
    """Buffers that a full claim touches."""
    plan = outbox.connection.execute(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement("outbox", "message_claim"), claim
    ).fetchone()
    assert plan is not None
    top = plan["QUERY PLAN"][0]["Plan"]
    assert top["Actual Rows"] == claim["batch_limit"]
    return int(sum(top[f"Shared {kind} Blocks"] for kind in ("Hit", "Read")))


def test_a_claim_costs_no_more_for_finished_and_future_rows(outbox: Outbox) -> None:
    fill(outbox, "sent", 20_000)
    fill(outbox, "scheduled", 20_000)
    outbox.sql("VACUUM ANALYZE backline.message")
    batch = 500
    outbox.enqueue_many(3 * batch)
    outbox.claim(batch)  # the first also reads what others left to clean
    assert 0 < buffers_touched(outbox, claim_from_head(batch)) <= 10 * batch


@pytest.mark.parametrize("name", ["message_promote", "message_expire"])
def test_later_messages_cost_a_promotion_nothing(name: str, outbox: Outbox) -> None:
    fill(outbox, "scheduled", 20_000)
    outbox.sql("UPDATE backline.message SET expires_at = due_at + interval '1 day'")
    outbox.sql("VACUUM FULL backline.message")
    outbox.sql("ANALYZE backline.message")
    plan = outbox.connection.execute(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement("outbox", name), {"batch_limit": 1000}
    ).fetchone()
    assert plan is not None
    top = plan["QUERY PLAN"][0]["Plan"]
    assert top["Actual Rows"] == 0
    assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 20


SITUATIONS = {
    "new": (),
    "empty, analysed": (("sent", 0),),
    "tiny, analysed": (("sent", 5),),
    "a history, analysed": (("sent", 5_000),),
    "a history behind, analysed": (("sent", 5_000), ("sent", 0)),
    "all waiting elsewhere, analysed": (("scheduled", 5_000),),
}


@pytest.mark.parametrize("before", SITUATIONS.values(), ids=SITUATIONS)
def test_a_claim_never_reads_the_whole_table_whatever_its_plan_was_made_on(
    outbox: Outbox, before: tuple[tuple[str, int], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for state, count in before:
        outbox.sql("DELETE FROM backline.message")
        fill(outbox, state, count)
        outbox.sql("VACUUM ANALYZE backline.message")
    for _ in range(12):  # a statement is prepared at its 6th, its plan kept from its 11th
        assert outbox.claim() == []
    fill(outbox, "pending", 20_000)
    monkeypatch.setattr(connect, "PLAN_MAX_AGE_SECONDS", 0.0)
    read = rows_read(outbox)
    assert len(outbox.claim(500)) == 500
    assert rows_read(outbox) == read


def rows_read(outbox: Outbox) -> int:
    """Rows of the table that were read one after the other, by no index."""
    flush(outbox)
    return int(outbox.value("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relid = 'backline.message'::regclass"))


def entries_read(outbox: Outbox) -> int:
    """Entries of the claims' index that were read, dead ones included."""
    flush(outbox)
    return int(
        outbox.value(
            "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelid = 'backline.message_claim'::regclass"
        )
    )


def flush(outbox: Outbox) -> None:
    """Make what the two connections have counted seen."""
    outbox.sql("SELECT pg_stat_force_next_flush()")
    outbox.run(outbox.database.fetch("SELECT pg_stat_force_next_flush()", str))
    outbox.run(outbox.database.fetch("SELECT 1", int))
    outbox.sql("SELECT pg_stat_clear_snapshot()")


# --- a claim that goes on where the last one ended --------------------------------------------------------


@pytest.fixture
def resuming_store(outbox: Outbox) -> Store:
    return Store(outbox.database, resume_scans=True)


def test_under_a_snapshot_a_resumed_claim_scans_no_claimed_rows(
    outbox: Outbox, resuming_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RESCAN_INTERVAL_SECONDS", 60.0)
    monkeypatch.setattr(store, "RESCAN_TIME_SHARE", 1e-6)
    ids = outbox.enqueue_many(3_000)
    with psycopg.connect(outbox.dsn) as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.execute("SELECT count(*) FROM backline.message")
        assert claim_ids(outbox, resuming_store, 2_000) == ids[:2_000]
        before = entries_read(outbox)
        assert claim_ids(outbox, resuming_store, 100) == ids[2_000:2_100]
        between = entries_read(outbox)
        assert claim_ids(outbox, Store(outbox.database), 100) == ids[2_100:2_200]
        after = entries_read(outbox)
    assert between - before == 100
    assert after - between == 2_200


def test_claims_resume_from_the_last_position_in_order(
    outbox: Outbox, resuming_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RESCAN_INTERVAL_SECONDS", 60.0)
    monkeypatch.setattr(store, "RESCAN_TIME_SHARE", 1e-6)
    ids = outbox.enqueue_many(6)
    assert claim_ids(outbox, resuming_store, 2) == ids[:2]
    low, high = outbox.enqueue(priority=2), outbox.enqueue(priority=9)
    later = outbox.enqueue()
    assert claim_ids(outbox, resuming_store, 3) == ids[2:5]
    assert claim_ids(outbox, resuming_store, 10) == [ids[5], later, low]
    assert claim_ids(outbox, resuming_store, 10) == []
    assert claim_ids(outbox, resuming_store, 10, "email.bulk") == []
    assert claim_ids(outbox, Store(outbox.database), 10) == [high]


@pytest.mark.parametrize(
    ("seconds", "share"), [(0.1, 1e-6), (60.0, 0.5)], ids=["once the time is over", "sooner while it is cheap"]
)
def test_messages_before_the_last_position_are_soon_claimed_first(
    outbox: Outbox, resuming_store: Store, monkeypatch: pytest.MonkeyPatch, seconds: float, share: float
) -> None:
    monkeypatch.setattr(store, "RESCAN_INTERVAL_SECONDS", seconds)
    monkeypatch.setattr(store, "RESCAN_TIME_SHARE", share)
    outbox.enqueue_many(3)
    given_back = outbox.run(resuming_store.claim("email.normal", 2, None, 60.0))
    outbox.run(resuming_store.return_unsent(given_back))
    high = outbox.enqueue(priority=9)
    found: list[int] = []

    async def look() -> bool:
        found.extend(message.id for message in await resuming_store.claim("email.normal", 10, None, 60.0))
        return high in found

    outbox.run(wait_until(look, 5.0))
    assert found[-3:] == [high, *(message.id for message in given_back)]


def claim_ids(outbox: Outbox, by: Store, most: int, lane: str = "email.normal") -> list[int]:
    return [message.id for message in outbox.run(by.claim(lane, most, None, 60.0))]
