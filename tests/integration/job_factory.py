"""Builds the `Job` that a function receives in a test: a real database, no Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from backline.channels.http import HttpGateway
from backline.db.connect import session
from backline.dead_letters.alerts import AlertSender
from backline.dead_letters.runs import AirflowRuns
from backline.errors import NotConfigured
from backline.jobs.job import Job, Params
from backline.jobs.results import ResultStore, RunRef, fetch_result
from backline.payments.provider import Provider

S = TypeVar("S")
OPERATOR = "operator@example.com"


@dataclass(frozen=True, slots=True)
class TestClients:
    """The clients that a test provides."""

    payment_provider: Provider | None = None
    gateways: Mapping[str, HttpGateway] | None = None
    runs: AirflowRuns | None = None
    alerts: AlertSender | None = None

    def provider(self, name: str | None) -> Provider:
        if self.payment_provider is None:
            raise NotConfigured(f"this test has no payment provider {name or ''}")
        return self.payment_provider

    def connection(self, name: str) -> HttpGateway:
        if name not in (self.gateways or {}):
            raise NotConfigured(f"this test has no connection {name}")
        return (self.gateways or {})[name]

    def airflow_runs(self) -> AbstractContextManager[AirflowRuns]:
        if self.runs is None:
            raise NotConfigured("this test has no runs of Airflow")
        return nullcontext(self.runs)

    def alert_sender(self) -> AlertSender:
        if self.alerts is None:
            raise NotConfigured("this test sends no alerts")
        return self.alerts


def create_job(
    dsn: str,
    settings: S,
    *,
    name: str = "test_job",
    run_id: str = "run-1",
    params: Mapping[str, Any] | None = None,
    now: datetime | None = None,
    provider: Provider | None = None,
    gateways: Mapping[str, HttpGateway] | None = None,
    runs: AirflowRuns | None = None,
    alerts: AlertSender | None = None,
    max_mapped_tasks: int = 1024,
) -> Job[S]:
    """A job on that database. Run a function with `job.execute(function)`, which stores the result and raises as a run does."""
    return Job(
        name=name, run_id=run_id, settings=settings, params=Params(params or {}), now=now or datetime.now(UTC), dsn=dsn,
        results=ResultStore(dsn, RunRef(name, run_id), 3600), clients=TestClients(provider, gateways, runs, alerts),
        alert_recipients=(OPERATOR,), conf=params or {}, max_mapped_tasks=max_mapped_tasks,
    )  # fmt: skip


def get_result(dsn: str, run: RunRef) -> dict[str, Any] | None:
    """What is stored of a run, read over a connection of its own."""
    with session(dsn, name="result") as connection:
        return fetch_result(connection, run)
