"""What the poller polls: lanes, [watches], Airflow's failures; each in its own loop, so a failing one affects no other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import LiteralString, Protocol, TypeVar

from backline.airflow.connections import airflow_rest_async, app_dsn_async, base_url
from backline.airflow.job_events import JobEventPublisher
from backline.airflow.poller import FAILURE_WATCH, WATCH_URI, lane_watch
from backline.airflow_api import AirflowClient
from backline.db.connect import Database, Row
from backline.db.statements import statement
from backline.dead_letters.reconcile_dead_letters import CURSOR
from backline.dead_letters.runs import failure_fingerprint
from backline.dead_letters.settings import DeadLetterSettings
from backline.errors import BacklineError, TimeoutFailure
from backline.outbox.store import Store
from backline.outbox.wakeup_policy import LaneStatus, WakeupPolicy, backlog_count_limit
from backline.settings import Settings, WatchSettings

T = TypeVar("T")
log = logging.getLogger(__name__)

STATEMENT_TIMEOUT_SECONDS = 0.5
"""A watch's statement is cancelled after this: lanes wait for the connection meanwhile."""
INITIAL_RETRY_DELAY_SECONDS = 1.0
MAX_RETRY_DELAY_SECONDS = 15.0
RESCUE_INTERVAL_SECONDS = 1.0
POST_TIMEOUT_SECONDS = 2.0
FAILURE_COOLDOWN_SECONDS = 10.0
FINGERPRINT_INTERVAL_SECONDS = 15.0
"""Between two requests for failed runs and import errors. Callbacks report most failures at once; these find the rest."""


class Watch(Protocol):
    """Something to poll."""

    names: frozenset[str]
    """The watches, as schedules name them, that it serves."""
    interval_seconds: float
    cooldown_seconds: float
    """After it has fired it does not fire again for this long, while the DAG starts."""

    async def check(self) -> frozenset[str]:
        """Those of `names` that have work now. Errors are the poller's to handle."""


async def poll_and_post(config: Settings, used: Mapping[str, int]) -> AsyncIterator[frozenset[str]]:
    """Poll all watches that are `used` and post their asset events; yields the watches whose event could not be posted."""
    database, airflow = AppDatabase(), AppAirflow()
    watches = [SqlWatch(name, watch, database) for name, watch in config.watches.items()]
    try:
        async for fired in poll([LaneWatch(database, config), FailureWatch(database, airflow, config), *watches], used):
            if unposted := await airflow.post_events(fired):
                yield unposted
    finally:
        await database.close()


async def poll(watches: Sequence[Watch], used: Mapping[str, int]) -> AsyncIterator[frozenset[str]]:
    """Poll for ever those watches whose names are `used` more than 0 times; yields the names that fire."""
    fired: asyncio.Queue[frozenset[str]] = asyncio.Queue()
    loops = [asyncio.create_task(_poll_one(watch, used, fired)) for watch in watches]
    try:
        while True:
            yield await fired.get()
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def _poll_one(watch: Watch, used: Mapping[str, int], fired: asyncio.Queue[frozenset[str]]) -> None:
    last_error, retry_delay, silent_until = "", INITIAL_RETRY_DELAY_SECONDS, 0.0
    while True:
        pause = watch.interval_seconds
        if any(used.get(name) for name in watch.names):
            try:
                due, now = await watch.check(), time.monotonic()
                if due and now >= silent_until:
                    fired.put_nowait(due)
                    silent_until = now + watch.cooldown_seconds
                last_error, retry_delay = "", INITIAL_RETRY_DELAY_SECONDS
            except Exception as exc:  # noqa: BLE001 - a trigger that raises is restarted every second, without end
                error = f"watch {min(watch.names)}: {type(exc).__name__}: {exc}"
                if error != last_error:
                    log.warning("%s; retrying at least every %.0f s", error, MAX_RETRY_DELAY_SECONDS)
                pause, last_error = max(pause, retry_delay), error
                retry_delay = min(retry_delay * 2, MAX_RETRY_DELAY_SECONDS)
        await asyncio.sleep(pause)


class AppDatabase(Database):
    """The poller's connection."""

    def __init__(self) -> None:
        super().__init__(app_dsn_async, name="poller", retry_timeout=0)

    async def fetch_quickly(
        self, sql: LiteralString, row: type[Row], params: Mapping[str, object] | None = None
    ) -> list[Row]:
        """As `fetch`, but TimeoutFailure, and the statement cancelled, when it takes too long."""
        try:
            # The client's clock: a transaction pooler would hand a session's statement_timeout to others.
            return await asyncio.wait_for(self.fetch(sql, row, params), STATEMENT_TIMEOUT_SECONDS)
        except TimeoutError:
            raise TimeoutFailure(f"the statement took longer than {STATEMENT_TIMEOUT_SECONDS} s") from None


class AppAirflow:
    """Airflow's REST API for all watches: one client, made from Airflow's connection, and anew after an error."""

    def __init__(self) -> None:
        self._client: AirflowClient | None = None
        self._asset_ids: dict[str, int] = {}

    async def call(self, function: Callable[[AirflowClient], T]) -> T:
        """Call a function that blocks, in a thread."""
        self._client = self._client or await airflow_rest_async()
        try:
            return await asyncio.to_thread(function, self._client)
        except BacklineError:
            self._client = None
            raise

    async def post_events(self, names: frozenset[str]) -> frozenset[str]:
        """Post the asset events of these watches; returns the watches for which that failed. Never raises.

        A trigger's own event does the same, but Airflow takes those from its triggers only once a second.
        """
        try:
            await asyncio.wait_for(self.call(partial(self._post_events, names)), POST_TIMEOUT_SECONDS)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the trigger's own event is left
            log.warning("asset events of %s: %s: %s", ", ".join(names), type(exc).__name__, exc)
            self._asset_ids = {}
            return names
        return frozenset()

    def _post_events(self, names: frozenset[str], client: AirflowClient) -> None:
        if not names <= self._asset_ids.keys():
            assets = client.pages("/api/v2/assets", "assets", uri_pattern=WATCH_URI.format(""))
            self._asset_ids.update({asset["name"]: asset["id"] for asset in assets})
        for name in names:
            client.post("/api/v2/assets/events", {"asset_id": self._asset_ids[name]})


class LaneWatch:
    """Fires for lanes that need a dispatcher. Also makes due messages pending and rescues those of dead dispatchers."""

    def __init__(self, database: Database, config: Settings) -> None:
        self.names = frozenset(map(lane_watch, config.lanes))
        self.interval_seconds = config.lane_trigger.poll_interval_seconds
        self.cooldown_seconds = 0.0  # the policy has one per lane
        self._store, self._lanes, self._outbox = Store(database), config.lanes, config.outbox
        self._policy = WakeupPolicy(config.lanes, config.lane_trigger.cooldown_seconds)
        self._statuses: Sequence[LaneStatus] = ()
        """Of the lanes that have messages or dispatchers."""
        self._next_rescue = 0.0

    async def check(self) -> frozenset[str]:
        """One small statement while the outbox is at rest."""
        if not self._statuses and not await self._store.has_work():
            return frozenset()
        now, timeout = time.monotonic(), self._outbox.heartbeat_timeout_seconds
        if now >= self._next_rescue:
            self._next_rescue = now + RESCUE_INTERVAL_SECONDS
            await self._store.rescue(self._outbox.max_rescues, timeout)
            await self._store.expire()
        await self._store.promote()
        live = {status.lane: status.live_dispatchers for status in self._statuses}
        limits = {name: backlog_count_limit(lane, live.get(name, 0)) for name, lane in self._lanes.items()}
        statuses = await self._store.lane_status(limits, timeout)
        self._statuses = [each for each in statuses if each.pending or each.live_dispatchers or each.handing_over]
        return frozenset(map(lane_watch, self._policy.lanes_to_wake(statuses, time.monotonic())))


class SqlWatch:
    """A statement whose first value is true while there is work."""

    def __init__(self, name: str, config: WatchSettings, database: AppDatabase) -> None:
        self.names = frozenset({name})
        self.interval_seconds, self.cooldown_seconds = config.interval_seconds, config.cooldown_seconds
        self._statement, self._database = config.statement, database

    async def check(self) -> frozenset[str]:
        """Run the statement."""
        domain, _, name = self._statement.partition(".")
        rows = await self._database.fetch_quickly(statement(domain, name), bool)
        return self.names if any(rows[:1]) else frozenset()


class FailureWatch:
    """A run has failed, a file's import error is new or gone, or an alert is due. Also publishes jobs' webhook events."""

    def __init__(self, database: AppDatabase, airflow: AppAirflow, config: Settings) -> None:
        self.names, self.cooldown_seconds = frozenset({FAILURE_WATCH}), FAILURE_COOLDOWN_SECONDS
        self.interval_seconds = config.section(DeadLetterSettings).poll_interval_seconds
        self._database, self._airflow, self._sends_alerts = database, airflow, bool(config.alerts.recipients)
        self._events = JobEventPublisher(airflow.call, database, base_url())
        self._fingerprint: tuple[object, ...] | None = None
        self._changed_at = datetime.now(UTC)
        self._next_fingerprint = 0.0

    async def check(self) -> frozenset[str]:
        """Run statements of our own at each call, requests to Airflow less often."""
        try:
            await self._events.poll()
        except BacklineError as exc:
            # Dead letters do not depend on webhooks; the next call publishes what this one has missed.
            log.warning("job events: %s", exc)
        if time.monotonic() >= self._next_fingerprint:
            found = await self._airflow.call(failure_fingerprint)
            if found != self._fingerprint:
                self._fingerprint, self._changed_at = found, datetime.now(UTC)
            self._next_fingerprint = time.monotonic() + FINGERPRINT_INTERVAL_SECONDS
        cursor = await self._database.fetch_quickly(statement("dead_letters", "cursor_get"), datetime, {"name": CURSOR})
        if not cursor or cursor[0] < self._changed_at:
            return self.names
        if self._sends_alerts and await self._database.fetch_quickly(
            statement("dead_letters", "alert_due"), str, {"batch_limit": 1}
        ):
            return self.names
        return frozenset()
