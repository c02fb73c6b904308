"""A job that fails; copied into the folder of test DAGs."""

from __future__ import annotations

from airflow.sdk import Param, task

from backline.airflow.jobs import job_dag

with job_dag("fails_unreported", doc="Raises.", retries=0, params={"mark": Param("", type="string")}):

    @task
    def raising(params: dict[str, str] | None = None) -> None:
        """Raises an error."""
        assert params is not None
        raise ConnectionRefusedError(f"the server is down ({params['mark']})")

    raising()
