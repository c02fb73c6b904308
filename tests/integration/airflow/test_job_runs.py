"""Jobs as they run: in Airflow's own way of running a DAG in one process, on a real database."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from backline.jobs.results import RunRef
from backline.settings import ROOT
from tests.integration.airflow import run_dags
from tests.integration.conftest import create, drop
from tests.integration.job_factory import get_result

HERE = Path(__file__).parent
JOBS = ("needs_connection", "needs_table", "permanent", "transient", "too_long", "paced", "mapped", "nothing_to_do")
OPERATIONS = ("purge_dead_letters", "reconcile_dead_letters")


@pytest.fixture(scope="module")
def app_database(server: str, template: str) -> Iterator[str]:
    from psycopg.conninfo import make_conninfo

    create(server, "backline_job_runs", template)
    dsn = make_conninfo(server, dbname="backline_job_runs")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO backline.dead_letter (kind, name, run_id, task_id, map_index, class, cause, attempts, failed_at)"
            " SELECT 'job', 'x', 'r' || n, 't', -1, 'network', 'no route', 1, now() FROM generate_series(1, 3) AS n"
        )
    yield dsn
    drop(server, "backline_job_runs")


@pytest.fixture(scope="module")
def ran(app_database: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All of them, run one after the other in one process: its start is what costs."""
    home = tmp_path_factory.mktemp("airflow")
    folder = home / "dags"
    folder.mkdir()
    shutil.copy(HERE / "sample_jobs.py", folder / "jobs.py")
    for name in OPERATIONS:
        shutil.copy(ROOT / "dags" / "operations" / f"{name}.py", folder)
    wanted = {**{job: {} for job in (*JOBS, *OPERATIONS)}, "mapped": {"chunks": 3}, "strict": {"undeclared": 1}}
    known = conninfo_to_dict(app_database)
    connection = {
        "conn_type": "postgres", "host": known["host"], "login": known["user"], "password": known.get("password"),
        "schema": known["dbname"], "port": int(known.get("port") or 5432),
    }  # fmt: skip
    done = subprocess.run(
        run_dags.command(folder, wanted),
        check=False, env=run_dags.environment(home, folder, {"AIRFLOW_CONN_BACKLINE_DB": json.dumps(connection)}),
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    answer = run_dags.parse_results(done.stdout, done.stderr)
    answer["output"] = done.stdout + done.stderr
    return answer


@pytest.mark.parametrize(
    ("job", "task", "reason"),
    [
        (
            "needs_connection",
            "pay",
            "connection 'payment_provider' is not configured: set AIRFLOW_CONN_PAYMENT_PROVIDER",
        ),
        ("needs_table", "read", "the app's database has no shop.no_such_table"),
        ("nothing_to_do", "skip", "no statement: put one into the folder"),
        ("reconcile_dead_letters", "reconcile_dead_letters", "connection 'backline_airflow' is not configured"),
    ],
)
def test_a_job_that_is_not_configured_is_skipped_and_says_how(
    ran: dict[str, Any], job: str, task: str, reason: str
) -> None:
    assert ran[job]["tasks"][task]["state"] == "skipped"
    assert reason in ran["output"]


def test_a_permanent_error_is_not_retried_and_is_a_dead_letter(ran: dict[str, Any], app_database: str) -> None:
    assert (ran["permanent"]["state"], ran["permanent"]["tasks"]["refused"]["attempts"]) == ("failed", 1)
    with psycopg.connect(app_database, row_factory=dict_row) as connection:
        [letter] = connection.execute("SELECT * FROM backline.dead_letter WHERE name = 'permanent'").fetchall()
    assert (letter["class"], letter["cause"], letter["run_id"]) == (
        "rejected", "550 no such user", ran["permanent"]["run_id"],
    )  # fmt: skip


def test_a_transient_error_is_retried(ran: dict[str, Any]) -> None:
    assert ran["transient"]["state"] == "success"
    assert ran["transient"]["tasks"]["busy"]["returned"] == 2


def test_after_a_timeout_the_next_try_has_longer(ran: dict[str, Any]) -> None:
    assert (ran["too_long"]["state"], ran["too_long"]["tasks"]["slow"]["attempts"]) == ("success", 2)


def test_a_task_over_its_rate_waits_for_its_token(ran: dict[str, Any]) -> None:
    tasks = ran["paced"]["tasks"]
    assert ran["paced"]["state"] == "success"
    assert tasks["one__1"]["returned"] - tasks["one"]["returned"] > 1.0


def test_mapped_tasks_and_the_result_of_the_run(ran: dict[str, Any], app_database: str) -> None:
    assert (ran["mapped"]["state"], ran["mapped"]["tasks"]["add_up"]["returned"]) == (
        "success", {"chunks": 3, "done": 5, "failed": 1},
    )  # fmt: skip
    stored = get_result(app_database, RunRef("mapped", ran["mapped"]["run_id"]))
    assert stored is not None
    assert (stored["percent"], stored["result"]) == (100, {"chunks": 3, "done": 5, "failed": 1})
    with psycopg.connect(app_database, row_factory=dict_row) as connection:
        [letter] = connection.execute("SELECT * FROM backline.dead_letter WHERE name = 'mapped'").fetchall()
    assert (letter["kind"], letter["item_key"], letter["cause"], letter["conf"]) == (
        "item",
        "3",
        "3 is broken",
        {"chunks": 3},
    )


def test_an_undeclared_parameter_fails_the_run_at_once(ran: dict[str, Any]) -> None:
    assert (ran["strict"]["state"], ran["strict"]["tasks"]["skip"]["attempts"]) == ("failed", 1)
    assert "conf.undeclared: is not a parameter of this job; use one of: none" in ran["output"]


def test_the_operations_end(ran: dict[str, Any]) -> None:
    assert ran["purge_dead_letters"]["state"] == "success"
    assert ran["purge_dead_letters"]["tasks"]["purge_dead_letters"]["returned"]["letters"] == 0
