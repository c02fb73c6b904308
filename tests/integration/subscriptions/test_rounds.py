"""Many subscriptions at a time: counted, bounded, each for itself, and safe to kill."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from backline.db.connect import session
from backline.errors import DatabaseFailure, Rejected
from backline.reference_app import invariant_violations
from backline.settings import ROOT
from backline.subscriptions.process_due_subscriptions import MAX_LISTED, BatchResult, due_chunks, renew_chunk
from backline.subscriptions.settings import SubscriptionSettings
from tests.integration.subscriptions.support import CONFIG, NOW, TODAY, Shop

ALL = (1, 2**62)
TRAP = 4711
TRAPPED = 20
"""The row at which the worker is held."""
FUNCTION: LiteralString = """
CREATE SEQUENCE public.trapped;
CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.trapped') = 20 THEN
        PERFORM pg_advisory_xact_lock(4711);
    END IF;
    RETURN new;
END $$
"""
# The gaps of a renewal, each with what holds the worker there and how many orders are committed by then.
GAPS: dict[str, tuple[LiteralString, int]] = {
    "before the stock": (
        "CREATE TRIGGER trap BEFORE UPDATE ON app.products FOR EACH ROW EXECUTE FUNCTION public.trap()", 19,
    ),
    "before the order": (
        "CREATE TRIGGER trap BEFORE INSERT ON app.orders FOR EACH ROW EXECUTE FUNCTION public.trap()", 19,
    ),
    "before its line": (
        "CREATE TRIGGER trap BEFORE INSERT ON app.order_lines FOR EACH ROW EXECUTE FUNCTION public.trap()", 19,
    ),
    "before its reservation": (
        "CREATE TRIGGER trap BEFORE UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION public.trap()", 19,
    ),
    "before the next date": (
        "CREATE TRIGGER trap BEFORE UPDATE ON app.subscriptions FOR EACH ROW EXECUTE FUNCTION public.trap()", 19,
    ),
    "before the message": (
        "CREATE TRIGGER trap BEFORE INSERT ON backline.message FOR EACH ROW EXECUTE FUNCTION public.trap()", 19,
    ),
    "after the message": (
        "CREATE TRIGGER trap AFTER INSERT ON backline.message FOR EACH ROW EXECUTE FUNCTION public.trap()", 19,
    ),
    # The commit has been asked for: it happens, though nobody is there to hear of it.
    "in the commit": (
        ("CREATE CONSTRAINT TRIGGER trap AFTER INSERT ON app.order_lines DEFERRABLE INITIALLY DEFERRED"
         " FOR EACH ROW EXECUTE FUNCTION public.trap()"), 20,
    ),
}  # fmt: skip


@contextmanager
def locked_subscription(shop: Shop) -> Iterator[None]:
    """The trap closed: whoever steps in waits."""
    with psycopg.connect(shop.dsn, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [TRAP])
        yield


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start_worker(shop: Shop) -> subprocess.Popen[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("BACKLINE_", "AIRFLOW"))}
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("worker.py"))],
        env={**kept, "PYTHONPATH": str(ROOT / "plugins"), "DSN": shop.dsn, "NOW": NOW.isoformat()},
        stdout=subprocess.PIPE,
        text=True,
    )


def renew_all(shop: Shop, config: SubscriptionSettings = CONFIG) -> BatchResult:
    with session(shop.dsn, name="round") as connection:
        return renew_chunk(connection, *ALL, NOW, config)


def counts(shop: Shop) -> tuple[int, int, int]:
    """Orders, what is set aside, and people who were told."""
    orders = shop.value("SELECT count(*) FROM app.orders")
    reserved = shop.value("SELECT sum(reserved) FROM app.products")
    told = shop.value("SELECT count(DISTINCT recipient) FROM backline.message WHERE type = 'order_confirmation'")
    return int(orders), int(reserved), int(told)


def test_only_what_is_due_is_found_in_chunks(shop: Shop) -> None:
    due = shop.subscribers(25)
    tomorrow = TODAY.replace(day=2)
    shop.subscription(tomorrow)
    shop.subscription(None, state="cancelled", cancelled_at=NOW)
    shop.subscription(state="paused", paused_at="2025-11-20")
    shop.subscription(retry_on=tomorrow)
    back = shop.subscription(state="paused", paused_at="2025-11-20", resume_on=TODAY)
    config = SubscriptionSettings(chunk_size=10)
    assert due_chunks(shop.connection, NOW, config) == [
        {"first": due[0], "last": due[9]}, {"first": due[10], "last": due[19]}, {"first": due[20], "last": back},
    ]  # fmt: skip
    bounded = SubscriptionSettings(chunk_size=10, max_chunks=2)
    assert [chunk["last"] for chunk in due_chunks(shop.connection, NOW, bounded)] == [due[9], due[19]]


def test_nothing_due_is_no_chunk(shop: Shop) -> None:
    shop.subscription(TODAY.replace(day=2))
    assert due_chunks(shop.connection, NOW, CONFIG) == []


def test_one_failure_harms_only_itself(shop: Shop) -> None:
    due = shop.subscribers(60)
    bad = [due[5], due[40]]
    shop.sql(
        "UPDATE app.users SET email = 'a,' || id || '@example.com' WHERE id IN"
        " (SELECT user_id FROM app.subscriptions WHERE id = ANY (%s))", bad,
    )  # fmt: skip
    busy = due[20]
    with session(shop.dsn, name="other") as other, other.transaction():
        other.execute("SELECT FROM app.subscriptions WHERE id = %s FOR UPDATE", [busy])
        tally = renew_all(shop)
    assert (tally.total, tally.outcomes, tally.failed) == (60, {"ordered": 57}, 3)
    assert [(failure["subscription"], failure["class"]) for failure in tally.failures] == [
        (bad[0], "validation"), (bad[1], "validation"), (busy, "database"),
    ]  # fmt: skip
    assert "recipient: not an email address" in tally.failures[0]["cause"]
    with pytest.raises(
        Rejected, match=rf"3 of 60 subscriptions were not renewed, .* {bad[0]} \(validation\): recipient"
    ):
        tally.raise_if_failed("renewed")
    assert counts(shop) == (57, 114, 57)

    shop.sql("UPDATE app.users SET email = replace(email, ',', '')")
    mended = renew_all(shop)
    assert (mended.total, mended.outcomes, mended.failed) == (3, {"ordered": 3}, 0)
    mended.raise_if_failed("renewed")
    assert counts(shop) == (60, 120, 60)
    assert invariant_violations(shop.dsn) == {}


def test_one_that_is_free_again_is_done_at_the_end(shop: Shop) -> None:
    due = shop.subscribers(30)
    with session(shop.dsn, name="other") as other, session(shop.dsn, name="round") as connection:
        other.execute("BEGIN")
        other.execute("SELECT FROM app.subscriptions WHERE id = %s FOR UPDATE", [due[0]])
        # The first order that is made lets it go.
        connection.add_notice_handler(lambda _: other.execute("ROLLBACK"))
        shop.sql(
            "CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'last'; RETURN new; END $$"
        )
        shop.sql("CREATE TRIGGER tell AFTER INSERT ON app.orders FOR EACH ROW EXECUTE FUNCTION public.tell()")
        tally = renew_chunk(connection, *ALL, NOW, CONFIG)
    assert (tally.outcomes, tally.failed) == ({"ordered": 30}, 0)


@pytest.mark.parametrize("gap", GAPS)
def test_killed_in_the_middle_and_run_again_there_is_one_order_each(shop: Shop, gap: str) -> None:
    trap, committed = GAPS[gap]
    shop.subscribers(40)
    shop.sql(FUNCTION)
    shop.sql(trap)
    with locked_subscription(shop):
        killed = start_worker(shop)
        wait_for(lambda: shop.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == 1)
        killed.kill()
        killed.communicate()
    wait_for(
        lambda: shop.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backline worker'") == 0
    )
    assert counts(shop) == (committed, 2 * committed, committed)
    assert invariant_violations(shop.dsn) == {}

    again = renew_all(shop)
    assert (again.outcomes, again.failed) == ({"ordered": 40 - committed}, 0)
    assert counts(shop) == (40, 80, 40)
    assert shop.value("SELECT count(*) FROM backline.message") == 40
    assert shop.value("SELECT count(*) FROM app.subscriptions WHERE next_on = '2026-04-01'") == 40
    assert invariant_violations(shop.dsn) == {}


def test_two_tries_at_once_make_one_order_each(shop: Shop) -> None:
    """As after a scheduler's crash: the old try lives on while the next begins."""
    shop.subscribers(200)
    with ThreadPoolExecutor(2) as pool:
        tallies = list(pool.map(lambda _: renew_all(shop), range(2)))
    assert sum(tally.outcomes["ordered"] for tally in tallies) == 200
    assert counts(shop) == (200, 400, 200)
    assert invariant_violations(shop.dsn) == {}


def test_a_database_that_goes_away_is_an_error_of_the_chunk(shop: Shop) -> None:
    shop.subscribers(40)
    shop.sql(FUNCTION)
    shop.sql("CREATE TRIGGER trap BEFORE INSERT ON app.orders FOR EACH ROW EXECUTE FUNCTION public.trap()")
    with locked_subscription(shop), ThreadPoolExecutor(1) as pool:
        running = pool.submit(renew_all, shop)
        wait_for(lambda: shop.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == 1)
        shop.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'backline round'")
        with pytest.raises(DatabaseFailure):
            running.result()
    assert counts(shop) == (19, 38, 19)
    assert renew_all(shop).outcomes == {"ordered": 21}


def test_tallies_add_up() -> None:
    one, other = BatchResult(), BatchResult()
    one.outcomes.update(ordered=3, skipped=1)
    other.outcomes.update(ordered=2)
    for number in range(MAX_LISTED):
        one.add_failure(number, ValueError("wrong"))
    other.add_failure(99, ValueError("also wrong"))
    both = BatchResult.sum_of([one.as_dict(), other.as_dict()])
    assert (both.total, both.failed, len(both.failures)) == (27, 21, MAX_LISTED)
    assert both.outcomes == {"ordered": 5, "skipped": 1}
    assert both.as_dict()["failures"][0] == {"subscription": 0, "class": "unknown", "cause": "ValueError: wrong"}
    assert BatchResult.sum_of([]).as_dict() == {"seen": 0, "failed": 0, "failures": []}


def assert_within_bounds(shop: Shop, count: int, seconds: float, mebibytes: int) -> None:
    """So many are renewed, as many chunks at a time as the job has, in that time and with that much more memory."""
    shop.subscribers(count, products=100)
    bad = [row["id"] for row in shop.sql("SELECT id FROM app.subscriptions WHERE mod(id, 1000) = 7")]
    shop.sql(
        "UPDATE app.users SET email = 'a,' || id || '@example.com' WHERE id IN"
        " (SELECT user_id FROM app.subscriptions WHERE id = ANY (%s))", bad,
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    chunks = due_chunks(shop.connection, NOW, CONFIG)
    longest = 0.0

    def one(chunk: dict[str, int]) -> BatchResult:
        nonlocal longest
        began = time.monotonic()
        with session(shop.dsn, name="chunk") as connection:
            tally = renew_chunk(connection, chunk["first"], chunk["last"], NOW, CONFIG)
        longest = max(longest, time.monotonic() - began)
        return tally

    with ThreadPoolExecutor(CONFIG.max_parallel_chunks) as pool:
        tally = BatchResult.sum_of(found.as_dict() for found in pool.map(one, chunks))
    took = time.monotonic() - started
    print(f"{count} renewed in {took:.1f} s, {count / took:.0f} a second, the longest chunk {longest:.1f} s")  # noqa: T201
    assert len(chunks) == -(-count // CONFIG.chunk_size)
    assert (tally.total, tally.outcomes["ordered"], tally.failed) == (count, count - len(bad), len(bad))
    assert counts(shop) == (count - len(bad), 2 * (count - len(bad)), count - len(bad))
    assert invariant_violations(shop.dsn) == {}
    assert took < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < mebibytes


def test_three_thousand(shop: Shop) -> None:
    assert_within_bounds(shop, 3000, seconds=60, mebibytes=32)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fifty_thousand(shop: Shop) -> None:
    assert_within_bounds(shop, 50_000, seconds=540, mebibytes=32)
