"""Publishes the webhook events `job.succeeded` and `job.failed` for every run of a job that has ended.

Callbacks cannot do it: Airflow calls none for a run whose task was killed, and parses the DAG file again for each one it
calls. So the poller's failure watch calls `JobEventPublisher.poll`: one query while no endpoint is subscribed, and one
request more while one is.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backline.airflow_api import ALL_RUNS_PATH, log_url
from backline.db.statements import statement
from backline.dead_letters.failures import NOT_MAPPED, WHOLE_RUN
from backline.outbox.submission import NewMessage, enqueue_statement

if TYPE_CHECKING:
    from backline.airflow_api import AirflowClient
    from backline.db.connect import Database

EVENT_TYPES = {"success": "job.succeeded", "failed": "job.failed"}
"""By a run's final state."""
CURSOR = "job events"
OVERLAP = timedelta(minutes=2)
"""How far each poll reads back: clocks differ and transactions commit late. No event is published twice."""
MAX_CATCH_UP = timedelta(hours=1)
"""Runs that ended longer ago are not published after a pause."""
JOB_LIST_TTL_SECONDS = 60.0
PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run of a job that has ended."""

    dag_id: str
    run_id: str
    state: str
    run_type: str
    started_at: datetime | None
    ended_at: datetime

    @property
    def event_id(self) -> str:
        """One id for each end of a run; a run that was cleared and ends again is another event."""
        key = f"{self.dag_id}/{self.run_id}/{self.ended_at.isoformat()}"
        return f"job_{hashlib.sha256(key.encode()).hexdigest()[:32]}"


class JobEventPublisher:
    """Publishes each end of a job's run once."""

    def __init__(self, rest: AirflowClient, database: Database, url: str) -> None:
        """`url` is the address where people open Airflow."""
        self._rest = rest
        self._database = database
        self._url = url
        self._since: datetime | None = None
        self._published_ids: frozenset[str] = frozenset()
        self._jobs: list[str] = []
        self._jobs_listed_at: datetime | None = None

    async def poll(self) -> int:
        """Publish the runs that ended since the last call, if an endpoint is subscribed; returns how many."""
        now = datetime.now(UTC)
        asked = {"event_types": list(EVENT_TYPES.values())}
        if not (await self._database.fetch(statement("webhooks", "event_has_subscriber"), asked))[0]["has_subscriber"]:
            self._since = now
            return 0
        since = await self._read_cursor(now) if self._since is None else self._since
        found = await asyncio.to_thread(lambda: list(self._ended_runs(since - OVERLAP, now)))
        new = [run for run in found if run.event_id not in self._published_ids]
        for run in new:
            await self._database.fetch(*enqueue_statement([event_message(run, self._url)]))
        await self._database.fetch(statement("dead_letters", "cursor_set"), {"name": CURSOR, "at": now})
        self._since, self._published_ids = now, frozenset(run.event_id for run in found)
        return len(new)

    async def _read_cursor(self, now: datetime) -> datetime:
        """Where the last triggerer stopped."""
        rows = await self._database.fetch(statement("dead_letters", "cursor_get"), {"name": CURSOR})
        return max(rows[0]["at"], now - MAX_CATCH_UP) if rows else now

    def _ended_runs(self, since: datetime, now: datetime) -> Iterator[EndedRun]:
        if self._jobs_listed_at is None or (now - self._jobs_listed_at).total_seconds() > JOB_LIST_TTL_SECONDS:
            self._jobs = [dag["dag_id"] for dag in self._rest.pages("/api/v2/dags", "dags", tags="job")]
            self._jobs_listed_at = now
        if not self._jobs:
            return
        body = {
            "dag_ids": self._jobs, "states": list(EVENT_TYPES), "end_date_gte": since.isoformat(), "order_by": "end_date",
            "page_limit": PAGE_SIZE,
        }  # fmt: skip
        offset = 0
        while True:
            _, answer = self._rest.post(f"{ALL_RUNS_PATH}/list", {**body, "page_offset": offset})
            yield from map(_parse_run, answer["dag_runs"])
            offset += PAGE_SIZE
            if offset >= answer["total_entries"]:
                return


def event_message(run: EndedRun, url: str) -> NewMessage:
    """The event as a message to every subscribed endpoint, without the run's conf, which is not for receivers."""
    data = {
        "job": run.dag_id,
        "run_id": run.run_id,
        "state": run.state,
        "run_type": run.run_type,
        "started_at": run.started_at and run.started_at.isoformat(),
        "ended_at": run.ended_at.isoformat(),
        "url": log_url(url, run.dag_id, run.run_id, WHOLE_RUN, NOT_MAPPED),
    }
    payload = {
        "event_type": EVENT_TYPES[run.state], "event_id": run.event_id, "occurred_at": run.ended_at.isoformat(), "data": data,
    }  # fmt: skip
    return NewMessage("webhook", "*", payload, run.event_id)


def _parse_run(item: Mapping[str, Any]) -> EndedRun:
    started = item["start_date"]
    return EndedRun(
        item["dag_id"], item["dag_run_id"], item["state"], item["run_type"],
        None if started is None else datetime.fromisoformat(started), datetime.fromisoformat(item["end_date"]),
    )  # fmt: skip
