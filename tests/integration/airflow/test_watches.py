"""The poller on a real database: each kind of watch, and that a watch which fails or is slow affects no other."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import pytest
from psycopg.conninfo import make_conninfo

from backline.airflow import watches
from backline.airflow.poller import FAILURE_WATCH, PollTrigger, lane_watch
from backline.airflow.watches import (
    AppAirflow,
    AppDatabase,
    FailureWatch,
    LaneWatch,
    SqlWatch,
    Watch,
    poll,
    poll_and_post,
)
from backline.airflow_api import AirflowClient
from backline.db.statements import statement
from backline.dead_letters.reconcile_dead_letters import CURSOR
from backline.errors import DatabaseFailure, Misconfigured, NetworkFailure, TimeoutFailure
from backline.settings import WatchSettings, settings
from tests.integration.conftest import create, drop
from tests.integration.outbox.support import Outbox, finished_outcome

LANE = lane_watch("email.normal")
STATEMENTS: dict[str, LiteralString] = {
    "true": "SELECT true AS due",
    "false": "SELECT false AS due",
    "empty": "SELECT true AS due WHERE false",
    "slow": "SELECT true AS due FROM pg_sleep(30)",
    "missing": "SELECT true AS due FROM app.no_such_table",
    "work": "SELECT EXISTS (SELECT FROM backline.opt_out) AS due",
}


@pytest.fixture(scope="module")
def poller_database(server: str, template: str) -> Iterator[str]:
    name = f"backline_poller_{uuid.uuid4().hex[:12]}"
    create(server, name, template)
    yield make_conninfo(server, dbname=name)
    drop(server, name)


@pytest.fixture
def outbox(poller_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    """An empty outbox, to which the poller's connection leads."""

    async def dsn() -> str:
        return poller_database

    monkeypatch.setattr(watches, "app_dsn_async", dsn)
    with Outbox(poller_database) as made:
        made.truncate()
        made.sql("TRUNCATE backline.scan_cursor, backline.dead_letter, backline.alert_group, backline.late_run")
        yield made


@pytest.fixture(autouse=True)
def test_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements of a file `test`, beside those of include/sql."""
    monkeypatch.setattr(
        watches, "statement", lambda file, name: STATEMENTS[name] if file == "test" else statement(file, name)
    )


class StubAirflow(AirflowClient):
    """Answers what the failure watch asks."""

    def __init__(self) -> None:
        self.failed: list[dict[str, Any]] = []
        self.broken_files: list[dict[str, Any]] = []
        self.is_down = False
        self.delay = 0.0
        self.requests = 0
        self.listed = 0
        self.posted: list[int] = []

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        self.requests += 1
        if self.is_down:
            raise NetworkFailure("Airflow is down")
        assert (path, params["state"]) == ("/api/v2/dags/~/dagRuns", "failed")
        return {"dag_runs": self.failed[-1:], "total_entries": len(self.failed)}

    def import_errors(self) -> Any:
        return self.broken_files

    def pages(self, path: str, key: str, **params: Any) -> Iterator[dict[str, Any]]:
        assert (path, key, params) == ("/api/v2/assets", "assets", {"uri_pattern": "backline://watch/"})
        self.listed += 1
        yield from ({"name": lane_watch(lane), "id": number} for number, lane in enumerate(sorted(settings().lanes)))

    def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        time.sleep(self.delay)
        if self.is_down:
            raise NetworkFailure("Airflow is down")
        assert path == "/api/v2/assets/events"
        self.posted.append(body["asset_id"])
        return 200, {}

    def fail_run(self) -> None:
        self.failed.append({"dag_id": "x", "dag_run_id": str(len(self.failed)), "end_date": "2026-01-01T00:00:00Z"})


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> StubAirflow:
    stub = StubAirflow()

    async def client() -> AirflowClient:
        return stub

    monkeypatch.setattr(watches, "airflow_rest_async", client)
    monkeypatch.setattr(watches, "base_url", lambda: "https://airflow.example")
    monkeypatch.setattr(watches, "FINGERPRINT_INTERVAL_SECONDS", 0.0)
    return stub


def run(test: Callable[[AppDatabase], Coroutine[Any, Any, None]]) -> None:
    """A test's coroutine, with the poller's connection."""

    async def with_database() -> None:
        database = AppDatabase()
        try:
            await test(database)
        finally:
            await database.close()

    asyncio.run(with_database())


def sql_watch(database: AppDatabase, name: str) -> SqlWatch:
    return SqlWatch(name, WatchSettings(statement=f"test.{name}", interval_seconds=0.5), database)


async def collect(polled: AsyncIterator[frozenset[str]], seconds: float) -> list[str]:
    """What fires within some seconds."""
    fired: list[str] = []
    async with aclosing(polled) as stream:  # type: ignore[type-var]
        try:
            async with asyncio.timeout(seconds):
                async for names in stream:
                    fired += names
        except TimeoutError:
            return fired
    raise AssertionError("the stream has ended")


class CountingWatch:
    """Fires at each call, and keeps the times."""

    def __init__(self, name: str, *, cooldown: float = 0.0, error: Exception | None = None) -> None:
        self.names, self.interval_seconds, self.cooldown_seconds = frozenset({name}), 0.05, cooldown
        self.error = error
        self.called_at: list[float] = []

    async def check(self) -> frozenset[str]:
        self.called_at.append(time.monotonic())
        if self.error:
            raise self.error
        return self.names


# --- lanes --------------------------------------------------------------------------------------------


def test_an_outbox_at_rest_has_no_work(outbox: Outbox) -> None:
    assert not outbox.run(outbox.store.has_work())
    outbox.enqueue(due_at=datetime.now(UTC) + timedelta(days=1), expires_at=datetime.now(UTC) + timedelta(days=2))
    outbox.enqueue()
    [message] = outbox.claim()
    outbox.complete(finished_outcome(message))
    assert not outbox.run(outbox.store.has_work())


@pytest.mark.parametrize("kind", ["pending", "rescued", "due", "expired", "leased", "dispatcher"])
def test_whatever_needs_the_poller_is_work(outbox: Outbox, kind: str) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    if kind == "dispatcher":
        outbox.dispatcher()
    else:
        message = outbox.enqueue(due_at=None if kind in ("pending", "leased", "rescued") else tomorrow)
    if kind == "rescued":
        outbox.sql("UPDATE backline.message SET rescues = 1")
    elif kind == "due":
        outbox.make_due(message)
    elif kind == "expired":
        outbox.sql("UPDATE backline.message SET expires_at = clock_timestamp() - interval '1 s'")
    elif kind == "leased":
        outbox.claim()
    assert outbox.run(outbox.store.has_work())


def test_finished_rows_cost_the_check_nothing(outbox: Outbox) -> None:
    outbox.enqueue_many(20_000)
    outbox.sql("UPDATE backline.message SET state = 'sent', finalized_at = clock_timestamp()")
    outbox.sql("VACUUM ANALYZE backline.message")
    [row] = outbox.sql("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement("outbox", "outbox_has_work"))
    [plan] = row["QUERY PLAN"]
    assert "Seq Scan on message" not in json.dumps(plan)
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 40


def test_a_lane_is_woken_for_its_first_message(outbox: Outbox) -> None:
    async def test(database: AppDatabase) -> None:
        lanes = LaneWatch(database, settings())
        assert await lanes.check() == frozenset()
        await asyncio.to_thread(outbox.enqueue)
        assert await lanes.check() == {LANE}
        assert await lanes.check() == frozenset()  # the cooldown
        [message] = await asyncio.to_thread(outbox.claim)
        await asyncio.to_thread(outbox.complete, finished_outcome(message))
        assert await lanes.check() == frozenset()
        await asyncio.to_thread(outbox.enqueue)
        assert await lanes.check() == {LANE}  # new work after the last was done

    run(test)


def test_due_messages_wake_a_cold_lane(outbox: Outbox) -> None:
    outbox.make_due(outbox.enqueue(due_at=datetime.now(UTC) + timedelta(days=1)))

    async def test(database: AppDatabase) -> None:
        assert await LaneWatch(database, settings()).check() == {LANE}

    run(test)
    assert outbox.state_counts() == {"pending": 1}


def test_messages_of_a_dead_dispatcher_are_rescued(outbox: Outbox) -> None:
    dispatcher = outbox.dispatcher()
    outbox.enqueue()
    outbox.claim(dispatcher=dispatcher)
    outbox.stop_heartbeat(dispatcher)

    async def test(database: AppDatabase) -> None:
        assert await LaneWatch(database, settings()).check() == {LANE}

    run(test)
    assert outbox.state_counts() == {"pending": 1}


# --- statements ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("outbox")
@pytest.mark.parametrize(("name", "names"), [("true", {"true"}), ("false", set()), ("empty", set())])
def test_a_statement_fires_when_its_first_value_is_true(name: str, names: set[str]) -> None:
    async def test(database: AppDatabase) -> None:
        watch = sql_watch(database, name)
        assert await watch.check() == names

    run(test)


def test_a_watch_fires_again_after_its_cooldown() -> None:
    watch = CountingWatch("busy", cooldown=1.0)
    assert asyncio.run(collect(poll([watch], {"busy": 1}), 2.5)) == ["busy"] * 3
    assert len(watch.called_at) > 25


@pytest.mark.usefixtures("outbox")
def test_a_slow_statement_is_cancelled_and_the_connection_stays() -> None:
    async def test(database: AppDatabase) -> None:
        [before] = await database.fetch("SELECT pg_backend_pid()", int)
        begun = time.monotonic()
        with pytest.raises(TimeoutFailure, match=r"longer than 0\.5 s"):
            await sql_watch(database, "slow").check()
        assert time.monotonic() - begun < 2
        assert [before] == await database.fetch("SELECT pg_backend_pid()", int)

    run(test)


@pytest.mark.usefixtures("outbox")
def test_a_missing_table_is_an_error_of_that_watch() -> None:
    async def test(database: AppDatabase) -> None:
        with pytest.raises(Misconfigured, match="no_such_table"):
            await sql_watch(database, "missing").check()
        assert await sql_watch(database, "true").check() == {"true"}

    run(test)


# --- failures -----------------------------------------------------------------------------------------


def read_all(outbox: Outbox) -> None:
    """As the reconciler does."""
    outbox.sql(
        "INSERT INTO backline.scan_cursor (name, at) VALUES (%s, clock_timestamp())"
        " ON CONFLICT (name) DO UPDATE SET at = excluded.at",
        CURSOR,
    )


def test_a_new_failure_fires_until_the_reconciler_has_read_it(outbox: Outbox, airflow: StubAirflow) -> None:
    async def test(database: AppDatabase) -> None:
        watch = FailureWatch(database, AppAirflow(), settings())
        assert await watch.check() == {FAILURE_WATCH}  # the reconciler has never run
        read_all(outbox)
        assert await watch.check() == frozenset()
        for change in (airflow.fail_run, lambda: airflow.broken_files.append({"filename": "a.py", "stack_trace": "x"}),
                       airflow.broken_files.clear):  # fmt: skip
            change()
            assert await watch.check() == {FAILURE_WATCH}
            assert await watch.check() == {FAILURE_WATCH}
            read_all(outbox)
            assert await watch.check() == frozenset()

    run(test)


@pytest.mark.usefixtures("airflow")
def test_a_due_alert_fires(outbox: Outbox) -> None:
    read_all(outbox)

    async def test(database: AppDatabase) -> None:
        watch = FailureWatch(database, AppAirflow(), settings())
        await watch.check()
        read_all(outbox)
        assert await watch.check() == frozenset()
        outbox.sql(
            "INSERT INTO backline.dead_letter (kind, name, run_id, task_id, map_index, class, cause, attempts, failed_at)"
            " VALUES ('job', 'x', 'r', 't', -1, 'network', 'no route', 1, now())"
        )
        assert await watch.check() == {FAILURE_WATCH}

    run(test)


@pytest.mark.usefixtures("outbox")
def test_airflow_is_asked_less_often_than_the_database(airflow: StubAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "FINGERPRINT_INTERVAL_SECONDS", 60.0)

    async def test(database: AppDatabase) -> None:
        watch = FailureWatch(database, AppAirflow(), settings())
        for _ in range(5):
            await watch.check()

    run(test)
    assert airflow.requests == 1


def test_after_an_error_a_client_is_made_anew(outbox: Outbox, airflow: StubAirflow) -> None:
    read_all(outbox)

    async def test(database: AppDatabase) -> None:
        watch = FailureWatch(database, AppAirflow(), settings())
        airflow.is_down = True
        with pytest.raises(NetworkFailure):
            await watch.check()
        airflow.is_down = False
        airflow.fail_run()
        assert await watch.check() == {FAILURE_WATCH}

    run(test)


# --- all of them together -----------------------------------------------------------------------------


def test_a_failing_watch_backs_off_is_logged_once_and_delays_no_other(caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = CountingWatch("broken", error=DatabaseFailure("it is broken")), CountingWatch("sound")
    with caplog.at_level(logging.WARNING, logger=watches.__name__):
        fired = asyncio.run(collect(poll([broken, sound], {"broken": 1, "sound": 1}), 4.0))
    assert set(fired) == {"sound"}
    assert len(sound.called_at) > 40
    assert [round(after - before) for before, after in zip(broken.called_at, broken.called_at[1:], strict=False)] == [
        1,
        2,
    ]
    [record] = caplog.records
    assert "watch broken: DatabaseFailure: it is broken" in record.message


def test_a_slow_statement_does_not_keep_lanes_from_polling(outbox: Outbox) -> None:
    async def test(database: AppDatabase) -> None:
        polled: list[Watch] = [LaneWatch(database, settings()), sql_watch(database, "slow")]
        begun = time.monotonic()
        await asyncio.to_thread(outbox.enqueue)
        async with aclosing(poll(polled, {LANE: 1, "slow": 1})) as stream:  # type: ignore[type-var]
            assert await anext(stream) == {LANE}
        assert time.monotonic() - begun < 2

    run(test)


def test_a_watch_without_a_dag_is_not_polled() -> None:
    unused, used = CountingWatch("unused"), CountingWatch("used")
    subscribers = {"used": 1, "unused": 0}
    fired = asyncio.run(collect(poll([unused, used], subscribers), 0.5))
    assert set(fired) == {"used"}
    assert unused.called_at == []


def test_all_share_one_connection(outbox: Outbox, airflow: StubAirflow) -> None:
    names = [*map(lane_watch, settings().lanes), *settings().watches, FAILURE_WATCH]
    connections: LiteralString = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backline poller' AND datname = current_database()"

    async def observe() -> list[int]:
        polling = asyncio.create_task(collect(poll_and_post(settings(), dict.fromkeys(names, 1)), 3.0))
        await asyncio.sleep(1.0)
        counts = []
        while not polling.done():
            counts.append(await asyncio.to_thread(outbox.value, connections))
            await asyncio.sleep(0.2)
        await polling
        return counts

    assert set(asyncio.run(observe())[:-1]) == {1}
    assert outbox.value(connections) == 0
    assert airflow.requests > 0


def test_it_survives_a_lost_connection(outbox: Outbox) -> None:
    async def test(database: AppDatabase) -> None:
        polled = [LaneWatch(database, settings())]
        async with aclosing(poll(polled, {LANE: 1})) as stream:  # type: ignore[type-var]
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(
                outbox.sql,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'backline poller'",
            )
            await asyncio.to_thread(outbox.enqueue)
            assert await asyncio.wait_for(waiting, 10) == {LANE}

    run(test)


# --- asset events -------------------------------------------------------------------------------------


def test_events_are_posted_and_assets_looked_up_once(airflow: StubAirflow) -> None:
    async def test() -> None:
        client = AppAirflow()
        assert await client.post_events(frozenset({lane_watch("email.bulk"), LANE})) == frozenset()
        assert await client.post_events(frozenset({LANE})) == frozenset()

    asyncio.run(test())
    assert (sorted(airflow.posted), airflow.listed) == ([0, 1, 1], 1)


def test_what_cannot_be_posted_is_returned(airflow: StubAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "POST_TIMEOUT_SECONDS", 0.2)

    async def test() -> None:
        client, unknown = AppAirflow(), frozenset({"not_parsed_yet"})
        assert await client.post_events(unknown) == unknown
        airflow.is_down = True
        assert await client.post_events(frozenset({LANE})) == {LANE}
        airflow.is_down, airflow.delay = False, 1.0
        assert await client.post_events(frozenset({LANE})) == {LANE}
        airflow.delay = 0.0
        assert await client.post_events(frozenset({LANE})) == frozenset()

    asyncio.run(test())


async def first_event(watch: str, seconds: float = 10.0) -> dict[str, Any] | None:
    """The payload of the first event that a watch's trigger yields, None if there is none in time."""
    events: AsyncIterator[Any] = PollTrigger(watch).run()
    async with aclosing(events) as stream:  # type: ignore[type-var]
        try:
            return dict((await asyncio.wait_for(anext(stream), seconds)).payload)
        except TimeoutError:
            return None


def test_a_trigger_yields_its_own_watchs_events_when_they_cannot_be_posted(
    outbox: Outbox, airflow: StubAirflow
) -> None:
    airflow.is_down = True
    outbox.enqueue()
    payload = asyncio.run(first_event(LANE))
    assert payload is not None
    assert payload["watch"] == LANE
    assert payload["fired_at"] == pytest.approx(time.time(), abs=5)


def test_a_posted_event_is_not_yielded_too(outbox: Outbox, airflow: StubAirflow) -> None:
    outbox.enqueue()
    assert asyncio.run(first_event(LANE, 2.0)) is None
    assert airflow.posted == [1]
