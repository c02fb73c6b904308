"""Fires the webhook events `job.succeeded` and `job.failed` for every run of a job that has ended, however it ended.

Airflow calls no callback for a run whose task was killed, and one for each run that succeeds would have its file parsed
anew. So the failure bell's loop looks: one query while nobody is subscribed, and one request more while somebody is.
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
"""By a run's last state."""
CURSOR = "job events"
OVERLAP = timedelta(minutes=2)
"""Read again what ended shortly before the last look: clocks differ and transactions commit late. No event fires twice."""
MAX_CATCH_UP = timedelta(hours=1)
"""After a longer silence, older runs are no news."""
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
        """The same for the same end of the same run; a run that was cleared and ends again is another event."""
        told = f"{self.dag_id}/{self.run_id}/{self.ended_at.isoformat()}"
        return f"job_{hashlib.sha256(told.encode()).hexdigest()[:32]}"


class JobEventPublisher:
    """What has been told of, from look to look."""

    def __init__(self, rest: AirflowClient, database: Database, url: str) -> None:
        """`url` is where people open Airflow."""
        self._rest = rest
        self._database = database
        self._url = url
        self._since: datetime | None = None
        self._published_ids: frozenset[str] = frozenset()
        self._jobs: list[str] = []
        self._jobs_listed_at: datetime | None = None

    async def poll(self) -> int:
        """Fire for what has ended since the last look, if an endpoint is subscribed; returns how many events."""
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
        """Where another triggerer has stopped."""
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
    """The event as the outbox takes it. A conf is not part of it: it is the job's own business."""
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
