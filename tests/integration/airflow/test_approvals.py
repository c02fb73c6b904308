"""`ask_approval` in Airflow: each request is asked about, and its answer reaches the library. The people are simulated."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tests.integration.airflow import run_dags

DAG_FILE = '''
from datetime import UTC, datetime

from backline.airflow import approvals
from backline.airflow.jobs import job_dag, job_task


def answer(self, context):
    """Approves the small one, as if a person had answered."""
    event = {
        "chosen_options": ["Approve" if "small" in self.body else "Reject"], "params_input": {},
        "responded_at": datetime.now(UTC), "responded_by_user": {"id": "1", "name": self.body},
    }
    return self.execute_complete(context, event)


approvals.ApprovalOperator.execute = answer
FUNCTIONS = "tests.integration.airflow.test_approvals"

with job_dag("asks", doc="Asks.", retries=0):
    requests = job_task(f"{FUNCTIONS}:request", stores_result=False)
    approvals.ask_approval(requests.output, f"{FUNCTIONS}:decide", subject="Allow it?", timeout_hours=1)
'''


def request(_: object) -> list[dict[str, object]]:
    """Two requests."""
    return [{"question": f"Allow the {size} one?", "item": {"size": size}} for size in ("small", "large")]


def decide(_: object, request: dict[str, dict[str, str]], answer: dict[str, object]) -> str:
    """Checks that request and answer belong together."""
    size = request["item"]["size"]
    assert answer == {"approved": size == "small", "decided_by": f"Allow the {size} one?"}, answer
    return size


def test_each_request_is_decided_by_its_own_answer(database: str, tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "asks.py").write_text(DAG_FILE)
    known = conninfo_to_dict(database)
    connection = {
        "conn_type": "postgres", "host": known["host"], "login": known["user"], "password": known.get("password"),
        "schema": known["dbname"], "port": int(known.get("port") or 5432),
    }  # fmt: skip
    done = subprocess.run(
        run_dags.command(folder, {"asks": {}}), check=False, capture_output=True, text=True, timeout=280,
        env=run_dags.environment(tmp_path, folder, {"AIRFLOW_CONN_BACKLINE_DB": json.dumps(connection)}),
    )  # fmt: skip
    ran = run_dags.parse_results(done.stdout, done.stderr)["asks"]
    assert ran["state"] == "success", done.stdout[-3000:]
    assert {name: task["state"] for name, task in ran["tasks"].items()} == {
        "request": "success", "approvals.ask": "success", "approvals.decide": "success",
    }  # fmt: skip
