"""A job that fails at its only attempt, for the event that it fires."""

from __future__ import annotations

from airflow.sdk import task

from backline.airflow.jobs import job_dag

with job_dag("fires_failed", doc="Fails at once.", retries=0) as dag:

    @task
    def fail() -> None:
        raise ValueError("it fails on purpose")

    fail()
