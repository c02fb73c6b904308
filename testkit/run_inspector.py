"""A client of Airflow's API that also looks at single tasks and changes runs, for the demo, the chaos runs and tests."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import quote

from backline.airflow_api import ALL, PAGE_SIZE, AirflowClient, Run, TaskInstance, run_path, task_path
from backline.errors import Rejected


class RunInspector(AirflowClient):
    """The library's client, with what only an observer of runs needs."""

    def runs(self, dag_id: str = ALL, **filters: Any) -> list[Run]:
        """The latest runs that match the API's filters (`state="running"`, `limit=10`), newest first: one page."""
        params = {"order_by": "-run_after", "limit": PAGE_SIZE, **filters}
        return cast("list[Run]", self.get(f"/api/v2/dags/{quote(dag_id)}/dagRuns", **params)["dag_runs"])

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Set a run's state: "failed" or "success" ends it."""
        self._request("PATCH", run_path(dag_id, run_id), body={"state": state})

    def clear(self, dag_id: str, run_id: str) -> None:
        """Clear all tasks of a run, so that they run again."""
        self.post(f"{run_path(dag_id, run_id)}/clear", {"dry_run": False, "only_failed": False})

    def task(self, dag_id: str, run_id: str, task_id: str) -> TaskInstance:
        """One task instance."""
        return cast("TaskInstance", self.get(task_path(dag_id, run_id, task_id)))

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What a task returned, or another XCom of it; None if there is none."""
        try:
            return self.get(f"{task_path(dag_id, run_id, task_id)}/xcomEntries/{quote(key)}", deserialize=True)["value"]
        except Rejected as exc:
            if exc.code == "404":
                return None
            raise

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """The log of one try: one line an event, with the event's further fields as KEY=VALUE."""
        usual = {"event", "timestamp", "level", "logger"}
        return "\n".join(
            " ".join([str(event.get("event", "")), *(f"{key}={event[key]}" for key in event if key not in usual)])
            for event in self.log_events(dag_id, run_id, task_id, try_number)
        )
