"""The jobs about subscriptions as `airflow dags test` runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from backline.jobs.results import RunRef
from backline.settings import ROOT
from tests.integration.airflow import run_dags
from tests.integration.job_factory import get_result
from tests.integration.subscriptions.support import Shop

DUE, SINGLE, REMINDERS = "process_due_subscriptions", "process_single_subscription", "send_renewal_reminders"


def run(dsn: str, home: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What the jobs came to, two subscriptions a chunk and two chunks at most."""
    folder = home / "dags"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (DUE, SINGLE, REMINDERS):
        shutil.copy(ROOT / "dags" / "commerce" / f"{name}.py", folder)
    known = conninfo_to_dict(dsn)
    connection = {
        "conn_type": "postgres", "host": known["host"], "login": known["user"], "password": known.get("password"),
        "schema": known["dbname"], "port": int(known.get("port") or 5432),
    }  # fmt: skip
    variables = {
        "AIRFLOW_CONN_BACKLINE_DB": json.dumps(connection), "BACKLINE__SUBSCRIPTIONS__CHUNK_SIZE": "2",
        "AIRFLOW__CORE__MAX_MAP_LENGTH": "2",
    }  # fmt: skip
    done = subprocess.run(
        run_dags.command(folder, wanted), check=False, env=run_dags.environment(home, folder, variables),
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    return run_dags.parse_results(done.stdout, done.stderr)


@pytest.mark.timeout(600)
def test_they_run_in_one_process(database: str, tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    with Shop(database) as shop:
        bad = shop.subscription(today, user_id=shop.user(country="ZZ"))
        shop.sql("ALTER TABLE app.orders ADD CONSTRAINT no_delivery CHECK (ship_to_country <> 'ZZ')")
        due = [shop.subscription(today) for _ in range(4)]
        ran = run(database, tmp_path, {DUE: {}, SINGLE: {"subscription_id": due[0]}, REMINDERS: {}})
        assert [len(shop.orders(one)) for one in [*due, bad]] == [1, 1, 1, 0, 0]

        # One subscription fails: the others are renewed, the run succeeds, and the failure is a dead letter.
        assert ran[DUE]["state"] == "success"
        kept = get_result(database, RunRef(DUE, ran[DUE]["run_id"]))
        assert kept is not None
        result = kept["result"]
        assert (result["chunks"], result["chunks_failed"]) == (2, 0)
        subscriptions = result["subscriptions"]
        assert (subscriptions["outcomes"], subscriptions["failed"]) == ({"ordered": 3}, 1)
        assert subscriptions["limit_reached"]  # Airflow maps no more chunks: the next run renews the rest
        [letter] = shop.sql("SELECT * FROM backline.dead_letter WHERE name = %s", DUE)
        assert (letter["kind"], letter["item_key"], letter["class"]) == ("item", str(bad), "unknown")
        assert ran[SINGLE]["tasks"]["process_single_subscription"]["returned"]["outcome"] == "not_due"
        assert ran[REMINDERS]["state"] == "success"
