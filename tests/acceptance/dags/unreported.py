"""A job that fails; put into the folder of a test's own DAGs."""

from __future__ import annotations

from airflow.sdk import Param, task

from backline.airflow.jobs import job_dag

with job_dag("fails_untold", doc="Raises.", retries=0, params={"mark": Param("", type="string")}):

    @task
    def raising(params: dict[str, str]) -> None:
        """Raises an error."""
        raise ConnectionRefusedError(f"the far side is closed ({params['mark']})")

    raising()
