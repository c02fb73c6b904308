"""Runs DAGs as `airflow dags test` does, in a process of its own: `run_jobs.py FOLDER {"dag id": conf, ...}`.

Prints one JSON object: for each DAG the run's state, and for each task its state, its tries and what it returned.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backline.settings import ROOT

TEMPLATE = Path(sys.prefix) / "backline-test-airflow.db"
"""Airflow's empty database, made by whoever needs one first: it takes ten seconds, and is the same for all of this .venv."""


def command(folder: Path, wanted: Mapping[str, Any]) -> list[str]:
    """What runs the DAGs of a folder, each with its conf."""
    return [sys.executable, __file__, str(folder), json.dumps(wanted)]


def environment(home: Path, folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """An Airflow of its own in `home`, on SQLite, that sees the DAGs of a folder and knows nothing but the variables."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "BACKLINE"))}
    return {
        **kept,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "BACKLINE_HOME": str(home),
        "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}",
        **variables,
    }


def parse_results(output: str, errors: str) -> dict[str, Any]:
    """What the process found out, by DAG."""
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    assert lines, output[-1000:] + errors[-2000:]
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return found


def main(folder: str, wanted: dict[str, Any]) -> dict[str, Any]:
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.utils.db import initdb

    database = Path(os.environ["AIRFLOW_HOME"]) / "airflow.db"
    if not database.exists() and TEMPLATE.exists():
        shutil.copyfile(TEMPLATE, database)
    initdb()
    if not TEMPLATE.exists():
        draft = TEMPLATE.with_name(f"{TEMPLATE.name}.{os.getpid()}")
        shutil.copyfile(database, draft)
        draft.replace(TEMPLATE)
    DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]
    bag = DagBag(folder)
    assert not bag.import_errors, bag.import_errors
    sync_bag_to_db(bag, "dags-folder", None)
    return {dag_id: _run(bag.dags[dag_id], conf) for dag_id, conf in wanted.items()}


def _run(dag: Any, conf: dict[str, Any]) -> dict[str, Any]:
    run = dag.test(run_conf=conf)
    tasks = {
        ti.task_id: {"state": ti.state, "attempts": ti.try_number, "returned": _return_value(ti)}
        for ti in run.get_task_instances()
    }
    return {"state": run.state, "run_id": run.run_id, "tasks": tasks}


def _return_value(ti: Any) -> Any:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        row = session.query(XComModel).filter_by(
            dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, key="return_value"
        ).first()  # fmt: skip
        return None if row is None else XComModel.deserialize_value(row)


if __name__ == "__main__":
    print("RESULT", json.dumps(main(sys.argv[1], json.loads(sys.argv[2])), default=str))  # noqa: T201
