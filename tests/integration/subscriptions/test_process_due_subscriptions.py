"""process_due_subscriptions: in chunks, bounded, isolated, and safe to kill."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from backline.db.connect import session
from backline.errors import DatabaseFailure, Rejected
from backline.jobs.batch import BatchResult
from backline.jobs.results import RunRef
from backline.settings import ROOT
from backline.subscriptions.process_due_subscriptions import find_chunks, renew_chunk, summarize
from backline.subscriptions.settings import SubscriptionSettings
from stack.reference_app import invariant_violations
from tests.integration.job_factory import create_job, get_result
from tests.integration.subscriptions.support import CONFIG, NOW, TODAY, Shop

ALL = {"first": 1, "last": 2**62}
TRAP = 4711
TRAPPED = 20
"""The row at which the worker blocks."""
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
# The points of a renewal, each with the trigger that blocks the worker there, and the number of orders committed by then.
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
    # The commit was requested: it happens although the process is dead.
    "in the commit": (
        ("CREATE CONSTRAINT TRIGGER trap AFTER INSERT ON app.order_lines DEFERRABLE INITIALLY DEFERRED"
         " FOR EACH ROW EXECUTE FUNCTION public.trap()"), 20,
    ),
}  # fmt: skip


@contextmanager
def locked_subscription(shop: Shop) -> Iterator[None]:
    """Hold the lock that the trigger waits for."""
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
        [sys.executable, str(Path(__file__).with_name("renew_worker.py"))],
        env={**kept, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}", "DSN": shop.dsn, "NOW": NOW.isoformat()},
        stdout=subprocess.PIPE,
        text=True,
    )


def renew_all(shop: Shop, config: SubscriptionSettings = CONFIG, chunk: dict[str, int] = ALL) -> dict[str, Any]:
    job = create_job(shop.dsn, config, name="round", now=NOW)
    result: dict[str, Any] = job.execute(renew_chunk, chunk)
    return result


def chunks_of(shop: Shop, config: SubscriptionSettings = CONFIG) -> list[dict[str, int]]:
    found: list[dict[str, int]] = create_job(shop.dsn, config, name="round", now=NOW).execute(find_chunks, store=False)
    return found


def counts(shop: Shop) -> tuple[int, int, int]:
    """Orders, reserved pieces, and notified customers."""
    orders = shop.value("SELECT count(*) FROM app.orders")
    reserved = shop.value("SELECT sum(reserved) FROM app.products")
    notified = shop.value("SELECT count(DISTINCT recipient) FROM backline.message WHERE type = 'order_confirmation'")
    return int(orders), int(reserved), int(notified)


def test_due_subscriptions_are_found_in_chunks(shop: Shop) -> None:
    due = shop.subscribers(25)
    tomorrow = TODAY.replace(day=2)
    shop.subscription(tomorrow)
    shop.subscription(None, state="cancelled", cancelled_at=NOW)
    shop.subscription(state="paused", paused_at="2025-11-20")
    shop.subscription(retry_on=tomorrow)
    back = shop.subscription(state="paused", paused_at="2025-11-20", resume_on=TODAY)
    config = SubscriptionSettings(chunk_size=10)
    assert chunks_of(shop, config) == [
        {"first": due[0], "last": due[9]}, {"first": due[10], "last": due[19]}, {"first": due[20], "last": back},
    ]  # fmt: skip
    bounded = SubscriptionSettings(chunk_size=10, max_chunks=2)
    assert [chunk["last"] for chunk in chunks_of(shop, bounded)] == [due[9], due[19]]


def test_there_are_no_more_chunks_than_airflow_maps_tasks_to(shop: Shop) -> None:
    shop.subscribers(5)
    job = create_job(shop.dsn, SubscriptionSettings(chunk_size=1), name="round", now=NOW, max_mapped_tasks=3)
    chunks = job.execute(find_chunks, store=False)
    assert len(chunks) == 3
    job = create_job(shop.dsn, SubscriptionSettings(chunk_size=1), name="round", now=NOW, max_mapped_tasks=3)
    assert job.execute(summarize, {"chunks": chunks, "results": [{}] * 3})["subscriptions"]["limit_reached"]


def test_a_run_with_nothing_due_stores_a_result(shop: Shop) -> None:
    shop.subscription(TODAY.replace(day=2))
    assert chunks_of(shop) == []
    stored = get_result(shop.dsn, RunRef("round", "run-1"))
    assert stored is not None
    assert stored["result"] == {"chunks": 0}


def make_refused(shop: Shop, subscriptions: list[int]) -> None:
    """The shop's own rule refuses the orders of these subscriptions."""
    shop.sql(
        "UPDATE app.users SET country = 'ZZ' WHERE id IN (SELECT user_id FROM app.subscriptions WHERE id = ANY (%s))",
        subscriptions,
    )
    shop.sql("ALTER TABLE app.orders ADD CONSTRAINT no_delivery CHECK (ship_to_country <> 'ZZ')")


def test_a_failure_affects_only_its_subscription(shop: Shop) -> None:
    due = shop.subscribers(60)
    bad = [due[5], due[40]]
    make_refused(shop, bad)
    busy = due[20]
    with session(shop.dsn, name="other") as other, other.transaction():
        other.execute("SELECT FROM app.subscriptions WHERE id = %s FOR UPDATE", [busy])
        with pytest.raises(DatabaseFailure):  # the locked one may succeed later: Airflow retries the chunk
            renew_all(shop)
    stored = get_result(shop.dsn, RunRef("round", "run-1"))
    assert stored is not None
    result = stored["result"]
    assert (result["done"], result["outcomes"], result["failed"]) == (57, {"ordered": 57}, 3)
    assert [(failure["key"], failure["failure_class"]) for failure in result["failures"]] == [
        (str(bad[0]), "unknown"), (str(bad[1]), "unknown"), (str(busy), "database"),
    ]  # fmt: skip
    assert "no_delivery" in result["failures"][0]["reason"]
    assert counts(shop) == (57, 114, 57)
    letters = shop.sql("SELECT item_key, state FROM backline.dead_letter WHERE kind = 'item' ORDER BY id")
    assert [(letter["item_key"], letter["state"]) for letter in letters] == [(str(one), "open") for one in bad]

    result = renew_all(shop)
    assert (result["outcomes"], result["failed"], result["skipped"]) == ({"ordered": 1}, 0, 2)
    shop.sql("UPDATE app.users SET country = 'DE', email = 'new-' || email WHERE country = 'ZZ'")
    result = renew_all(shop)
    assert (result["outcomes"], result["failed"], result["skipped"]) == ({"ordered": 2}, 0, 0)
    assert counts(shop) == (60, 120, 60)
    assert invariant_violations(shop.dsn) == {}


def test_a_subscription_that_is_unlocked_meanwhile_is_renewed_at_the_end(shop: Shop) -> None:
    due = shop.subscribers(30)
    job = create_job(shop.dsn, CONFIG, name="round", now=NOW)
    with session(shop.dsn, name="other") as other:
        other.execute("BEGIN")
        other.execute("SELECT FROM app.subscriptions WHERE id = %s FOR UPDATE", [due[0]])

        def unlock(_: object) -> None:
            other.execute("ROLLBACK")

        # The first order that is created releases the lock.
        job.database.add_notice_handler(unlock)
        shop.sql(
            "CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'last'; RETURN new; END $$"
        )
        shop.sql("CREATE TRIGGER tell AFTER INSERT ON app.orders FOR EACH ROW EXECUTE FUNCTION public.tell()")
        result = job.execute(renew_chunk, ALL)
    assert (result["outcomes"], result["failed"]) == ({"ordered": 30}, 0)


@pytest.mark.parametrize("gap", GAPS)
def test_after_a_kill_and_another_run_each_subscription_has_one_order(shop: Shop, gap: str) -> None:
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
    assert (again["outcomes"], again["failed"]) == ({"ordered": 40 - committed}, 0)
    assert counts(shop) == (40, 80, 40)
    assert shop.value("SELECT count(*) FROM backline.message") == 40
    assert shop.value("SELECT count(*) FROM app.subscriptions WHERE next_on = '2026-04-01'") == 40
    assert invariant_violations(shop.dsn) == {}


def test_overlapping_attempts_create_one_order_each(shop: Shop) -> None:
    """As after a scheduler's crash: the old attempt still runs while the next one starts."""
    shop.subscribers(200)

    def renew(_: int) -> None:
        with suppress(DatabaseFailure):  # met the other one's locks
            renew_all(shop)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(renew, range(2)))
    renew_all(shop)
    assert counts(shop) == (200, 400, 200)
    assert invariant_violations(shop.dsn) == {}


def test_a_lost_database_connection_fails_the_chunk(shop: Shop) -> None:
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
    assert renew_all(shop)["outcomes"] == {"ordered": 21}


def test_a_failed_chunk_fails_the_run_after_its_result_is_stored(shop: Shop) -> None:
    shop.subscribers(4)
    config = SubscriptionSettings(chunk_size=2)
    chunks = chunks_of(shop, config)
    results = [renew_all(shop, config, chunks[0])]
    job = create_job(shop.dsn, config, name="round")
    with pytest.raises(Rejected, match="1 of 2 chunks failed"):
        job.execute(summarize, {"chunks": chunks, "results": results})
    stored = get_result(shop.dsn, RunRef("round", "run-1"))
    assert stored is not None
    result = stored["result"]
    assert (result["chunks"], result["chunks_failed"]) == (2, 1)
    assert result["subscriptions"]["outcomes"] == {"ordered": 2}


def assert_within_bounds(shop: Shop, count: int, seconds: float, mebibytes: int) -> None:
    """Renew so many, with as many parallel chunks as the job has, in that time and with that much more memory."""
    shop.subscribers(count, products=100)
    bad = [row["id"] for row in shop.sql("SELECT id FROM app.subscriptions WHERE mod(id, 1000) = 7")]
    make_refused(shop, bad)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    chunks = chunks_of(shop)
    longest = 0.0

    def renew(chunk: dict[str, int]) -> dict[str, Any]:
        nonlocal longest
        began = time.monotonic()
        result = renew_all(shop, chunk=chunk)
        longest = max(longest, time.monotonic() - began)
        return result

    with ThreadPoolExecutor(CONFIG.max_parallel_chunks) as pool:
        total = BatchResult.from_results(pool.map(renew, chunks))
    took = time.monotonic() - started
    print(f"{count} renewed in {took:.1f} s, {count / took:.0f} a second, the longest chunk {longest:.1f} s")  # noqa: T201
    assert len(chunks) == -(-count // CONFIG.chunk_size)
    assert (total.done, total.outcomes, total.failed) == (count - len(bad), {"ordered": count - len(bad)}, len(bad))
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
