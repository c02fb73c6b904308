"""Publishes `job.succeeded` and `job.failed` by polling: Airflow calls no callback for a run whose task was killed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backline.airflow_api import ALL_RUNS_PATH, log_url
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.outbox.submission import NewMessage, enqueue_statement

if TYPE_CHECKING:
    from backline.airflow_api import AirflowClient, Run
    from backline.db.connect import Database

log = logging.getLogger(__name__)

CallAirflow = Callable[["Callable[[AirflowClient], list[Run]]"], Awaitable["list[Run]"]]
EVENT_TYPES = {"success": "job.succeeded", "failed": "job.failed"}
"""By a run's final state."""
CURSOR = "job events"
OVERLAP = timedelta(minutes=2)
"""How far each poll reads back: clocks differ and transactions commit late. No event is published twice."""
MAX_CATCH_UP = timedelta(hours=1)
"""Runs that ended longer ago are not published after a pause."""
JOB_LIST_TTL = timedelta(minutes=1)
PAGE_SIZE = 100


class JobEventPublisher:
    """Publishes each end of a job's run once."""

    def __init__(self, call: CallAirflow, database: Database, url: str) -> None:
        """`call` runs a function with a client of Airflow, `url` is the address where people open it."""
        self._call, self._database, self._url = call, database, url
        self._since: datetime | None = None
        self._published_ids: frozenset[str] = frozenset()
        self._jobs: list[str] = []
        self._jobs_listed_at = datetime.min.replace(tzinfo=UTC)

    async def poll(self) -> int:
        """Publish the runs that ended since the last call, if an endpoint is subscribed; returns how many."""
        now = datetime.now(UTC)
        wanted = {"event_types": list(EVENT_TYPES.values())}
        if not any(await self._database.fetch(statement("webhooks", "event_has_subscriber"), bool, wanted)):
            self._since = now
            return 0
        if self._since is None:  # where the last triggerer stopped
            rows = await self._database.fetch(statement("dead_letters", "cursor_get"), datetime, {"name": CURSOR})
            self._since = max(rows[0], now - MAX_CATCH_UP) if rows else now
        since = self._since - OVERLAP
        ended = {event_id(run): run for run in await self._call(lambda api: list(self._ended_runs(api, since, now)))}
        new = [event_message(run, self._url) for id_, run in ended.items() if id_ not in self._published_ids]
        if new:
            await self._enqueue(new)
        await self._database.fetch(statement("dead_letters", "cursor_set"), datetime, {"name": CURSOR, "at": now})
        self._since, self._published_ids = now, frozenset(ended)
        return len(new)

    async def _enqueue(self, events: list[NewMessage]) -> None:
        """Enqueue events; one that is refused is logged and left out: it would keep back all later ones."""
        sql, params = enqueue_statement(events)
        try:
            await self._database.fetch(sql, list[int], params)
        except InvalidInput as exc:
            if len(events) == 1:
                log.warning("job event %s: %s", events[0].key, exc)
                return
            for event in events:
                await self._enqueue([event])

    def _ended_runs(self, api: AirflowClient, since: datetime, now: datetime) -> Iterator[Run]:
        if now - self._jobs_listed_at > JOB_LIST_TTL:
            self._jobs, self._jobs_listed_at = [dag["dag_id"] for dag in api.dags(tags="job")], now
        body: dict[str, Any] = {
            "dag_ids": self._jobs, "states": list(EVENT_TYPES), "end_date_gte": since.isoformat(), "order_by": "end_date",
            "page_limit": PAGE_SIZE, "page_offset": 0,
        }  # fmt: skip
        total = 1 if self._jobs else 0
        while body["page_offset"] < total:
            _, page = api.post(f"{ALL_RUNS_PATH}/list", body)
            yield from page["dag_runs"]
            body["page_offset"] += PAGE_SIZE
            total = page["total_entries"]


def event_id(run: Run) -> str:
    """One id for each end of a run; a run that was cleared and ends again is another event."""
    key = f"{run['dag_id']}/{run['dag_run_id']}/{run['end_date']}"
    return f"job_{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def event_message(run: Run, url: str) -> NewMessage:
    """The event as a message to every subscribed endpoint, without the run's conf, which is not for receivers."""
    data = {
        "job": run["dag_id"], "run_id": run["dag_run_id"], "state": run["state"], "run_type": run["run_type"],
        "started_at": run["start_date"], "ended_at": run["end_date"], "url": log_url(url, run["dag_id"], run["dag_run_id"]),
    }  # fmt: skip
    type_, id_ = EVENT_TYPES[run["state"]], event_id(run)
    return NewMessage(
        "webhook", "*", {"event_type": type_, "event_id": id_, "occurred_at": run["end_date"], "data": data}, id_
    )
