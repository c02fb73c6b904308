from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from backline.db.connect import Database
from backline.outbox.recipient_policy import defer_over_domain_rate
from backline.outbox.store import LeasedMessage, Store
from backline.settings import LaneSettings
from tests.integration.outbox.support import Outbox, failed_outcome, finished_outcome

LANE = "email.normal"
SLOW = LaneSettings(channel="email", rate_per_minute=1.0, rate_burst=7)
BY_DOMAIN = LaneSettings(channel="email", rate_burst=2, domain_rates_per_minute={"example.com": 6.0})


def claim(outbox: Outbox, lane: LaneSettings, most: int = 100) -> tuple[list[LeasedMessage], float]:
    return outbox.run(outbox.store.claim_within_rate(LANE, lane, most, None))


def advance_buckets(outbox: Outbox, seconds: float) -> None:
    outbox.sql("UPDATE backline.rate_bucket SET next_at = next_at - %s * interval '1 s'", seconds)


def test_a_quiet_lane_has_its_burst_and_then_one_token_an_interval(outbox: Outbox) -> None:
    outbox.enqueue_many(20)
    messages, wait = claim(outbox, SLOW)
    assert (len(messages), wait) == (7, 0.0)
    messages, wait = claim(outbox, SLOW)
    assert messages == []
    assert wait == pytest.approx(60, abs=5)
    advance_buckets(outbox, 120)
    assert len(claim(outbox, SLOW)[0]) == 2
    advance_buckets(outbox, 10**6)
    assert len(claim(outbox, SLOW)[0]) == 7  # never more than the burst, however long it was quiet


def test_tokens_are_spent_by_messages_and_not_by_polls(outbox: Outbox) -> None:
    assert claim(outbox, SLOW) == ([], 0.0)
    outbox.enqueue_many(3)
    assert len(claim(outbox, SLOW)[0]) == 3
    outbox.enqueue_many(10)
    assert len(claim(outbox, SLOW)[0]) == 4


def test_without_tokens_an_empty_lane_has_nothing_to_wait_for(outbox: Outbox) -> None:
    outbox.enqueue_many(7)
    claim(outbox, SLOW)
    assert claim(outbox, SLOW) == ([], 0.0)


def test_two_connections_share_a_lanes_rate_exactly(outbox: Outbox) -> None:
    ids = outbox.enqueue_many(60)
    lane = SLOW.model_copy(update={"rate_burst": 33})

    async def drain(name: str) -> list[int]:
        store = Store(Database(outbox.dsn, name=name, retry_timeout=0))
        found: list[int] = []
        try:
            for _ in range(20):
                messages, _ = await store.claim_within_rate(LANE, lane, 2, None)
                found += [message.id for message in messages]
                await asyncio.sleep(0)
        finally:
            await store.close()
        return found

    async def both() -> tuple[list[int], list[int]]:
        return await asyncio.gather(drain("one"), drain("other"))

    one, other = outbox.run(both())
    assert sorted(one + other) == ids[:33]
    assert one
    assert other


def test_a_message_over_its_domains_rate_is_deferred_once(outbox: Outbox) -> None:
    outbox.enqueue_many(5)
    free = outbox.enqueue("x@elsewhere.example")
    first = outbox.run(defer_over_domain_rate(outbox.store, LANE, BY_DOMAIN, outbox.claim()))
    assert Counter(message.recipient.partition("@")[2] for message in first) == {
        "example.com": 2,
        "elsewhere.example": 1,
    }
    assert free in {message.id for message in first}
    outbox.complete(*map(finished_outcome, first))
    rows = outbox.sql(
        "SELECT state, rate_token_reserved, attempt, rescues, extract(epoch FROM due_at - clock_timestamp())::float8 AS due_in"
        " FROM backline.message WHERE state <> 'sent' ORDER BY due_at"
    )
    assert {(row["state"], row["rate_token_reserved"], row["attempt"], row["rescues"]) for row in rows} == {
        ("scheduled", True, 0, 0)
    }
    assert [row["due_in"] for row in rows] == pytest.approx([10, 20, 30], abs=3)  # 6 a minute
    bucket = outbox.value("SELECT next_at FROM backline.rate_bucket")

    outbox.make_due(*(row["id"] for row in outbox.sql("SELECT id FROM backline.message WHERE state = 'scheduled'")))
    outbox.run(outbox.store.promote())
    again = outbox.run(defer_over_domain_rate(outbox.store, LANE, BY_DOMAIN, outbox.claim()))
    assert len(again) == 3  # all may go: their tokens came
    assert outbox.value("SELECT next_at FROM backline.rate_bucket") == bucket  # and none was charged again


def test_a_retry_reserves_a_new_token(outbox: Outbox) -> None:
    outbox.enqueue_many(3)
    outbox.run(defer_over_domain_rate(outbox.store, LANE, BY_DOMAIN, outbox.claim()))
    [late] = outbox.sql("SELECT id FROM backline.message WHERE rate_token_reserved")
    outbox.make_due(late["id"])
    outbox.run(outbox.store.promote())
    [message] = outbox.claim()
    outbox.complete(failed_outcome(message))
    assert not outbox.message(late["id"])["rate_token_reserved"]


def test_later_messages_to_a_domain_come_after_the_deferred_ones(outbox: Outbox) -> None:
    outbox.enqueue_many(4)
    outbox.run(defer_over_domain_rate(outbox.store, LANE, BY_DOMAIN, outbox.claim()))
    outbox.enqueue_many(1)
    assert outbox.run(defer_over_domain_rate(outbox.store, LANE, BY_DOMAIN, outbox.claim())) == []
    due = outbox.value(
        "SELECT extract(epoch FROM max(due_at) - clock_timestamp())::float8 FROM backline.message WHERE state = 'scheduled'"
    )
    assert due == pytest.approx(30, abs=3)


def test_admitted_messages_keep_their_order(outbox: Outbox) -> None:
    late = outbox.enqueue("a@elsewhere.example", priority=1)
    first = outbox.enqueue("a@example.com", priority=9)
    assert [
        message.id for message in outbox.run(defer_over_domain_rate(outbox.store, LANE, BY_DOMAIN, outbox.claim()))
    ] == [
        first,
        late,
    ]
