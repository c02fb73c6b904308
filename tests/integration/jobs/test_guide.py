"""The job that docs/jobs.md adds runs: its files are written into a copy of the project, as a reader would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from backline.jobs.results import RunRef
from backline.settings import ROOT
from tests.integration.airflow import run_dags
from tests.integration.conftest import create, drop
from tests.integration.job_factory import get_result

SECTION = re.compile(r"^## Add a job.*?\n(.*?)^## ", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^`([\w/]+\.\w+)`.*\n(?:.+\n)*\n```\w+\n((?:.*\n)*?)```$", re.MULTILINE)
COPIED = (
    "include",
    "plugins",
    "stack",
    "testkit",
    "tests/integration/conftest.py",
    "tests/integration/job_factory.py",
    "tests/integration/shop.py",
    "pyproject.toml",
)
PRODUCTS = "INSERT INTO app.products (sku, name, stock) VALUES ('CUP', 'Cup', 3), ('JUG', repeat('x', 600), 1)"


def guide() -> str:
    found = SECTION.search((ROOT / "docs" / "jobs.md").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def files() -> dict[str, str]:
    """The text of each file that the guide shows, by its path."""
    return {match[1]: match[2] for match in FILE.finditer(guide())}


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the project with the guide's job, and the environment in which Airflow runs it."""

    root: Path
    database: str
    variables: dict[str, str]

    def run(self, conf: dict[str, Any], **variables: str) -> dict[str, Any]:
        """One run of the job, as `airflow dags test` does it."""
        command = run_dags.command(self.root / "dags" / "stock", {"report_low_stock": conf})
        done = subprocess.run(
            command, check=False, env={**self.variables, **variables}, capture_output=True, text=True, timeout=200
        )
        ran: dict[str, Any] = run_dags.parse_results(done.stdout, done.stderr)["report_low_stock"]
        assert ran["state"] == "success", done.stdout[-3000:] + done.stderr[-3000:]
        stored = get_result(self.database, RunRef("report_low_stock", ran["run_id"]))
        assert stored is not None
        result: dict[str, Any] = stored["result"]
        return result

    def subjects(self) -> list[str]:
        """Of the messages in the outbox."""
        with psycopg.connect(self.database) as connection:
            found = connection.execute("SELECT payload ->> 'subject' FROM backline.message ORDER BY id").fetchall()
        return [row[0] for row in found]


@pytest.fixture(scope="module")
def copy(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    root = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, root / name)
    for name, text in files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{root / 'plugins'}:{root}"}
    subprocess.run([sys.executable, "-m", "testkit.settings_file"], check=True, cwd=root, env=environment, timeout=60)
    create(server, "backline_guide", template)
    database = make_conninfo(server, dbname="backline_guide")
    with psycopg.connect(database) as connection:
        connection.execute(PRODUCTS)
    known = conninfo_to_dict(database)
    connection_json = json.dumps({
        "conn_type": "postgres", "host": known["host"], "login": known["user"], "password": known.get("password"),
        "schema": known["dbname"], "port": int(known.get("port") or 5432),
    })  # fmt: skip
    home = tmp_path_factory.mktemp("airflow")
    variables = {
        **run_dags.environment(home, root / "dags", {"AIRFLOW_CONN_BACKLINE_DB": connection_json}),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(root / "plugins"),
        "PYTHONPATH": f"{root / 'plugins'}:{root}",
    }
    yield Copy(root, database, variables)
    drop(server, "backline_guide")


def test_the_job_has_four_files_of_at_most_120_lines() -> None:
    assert [Path(name).parts[0] for name in files()] == ["dags", "plugins", "include", "tests"]
    assert sum(len(text.splitlines()) for text in files().values()) <= 120


def test_the_guides_own_test_passes_and_fails_when_the_job_does_nothing(copy: Copy, server: str) -> None:
    """`pytest` in the copy, on this server."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "BACKLINE", "PYTEST"))
    }

    def outcome() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/integration/stock"],
            check=False, cwd=copy.root, env={**environment, "BACKLINE_TEST_POSTGRES_DSN": server}, capture_output=True,
            text=True, timeout=200,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    code, output = outcome()
    assert code == 0, output[-3000:]
    assert "1 passed" in output
    function = copy.root / "plugins" / "backline" / "stock" / "report_low_stock.py"
    text = function.read_text(encoding="utf-8")
    try:
        function.write_text(text.replace("job.enqueue(", "str("), encoding="utf-8")
        assert outcome()[0] == 1
    finally:
        function.write_text(text, encoding="utf-8")


def test_its_settings_are_written_into_the_file_with_their_descriptions(copy: Copy) -> None:
    text = (copy.root / "include" / "config" / "backline.toml").read_text(encoding="utf-8")
    assert text.endswith("""
# Reports of products that are running out.
[report_low_stock]
# Products with fewer unreserved pieces than this are reported.
threshold = 5
""")


def test_it_runs_as_a_dag_and_stores_its_result(copy: Copy) -> None:
    assert copy.run({"dry_run": True})["outcomes"] == {"would be reported": 2}
    assert copy.subjects() == []
    result = copy.run({})
    assert (result["done"], result["outcomes"], result["failed"]) == (1, {"reported": 1}, 1)
    assert copy.subjects() == ["Cup: 3 left"]
    with psycopg.connect(copy.database) as connection:
        assert connection.execute("SELECT kind, name, item_key FROM backline.dead_letter").fetchall() == [
            ("item", "report_low_stock", "2")
        ]


def test_a_changed_setting_reaches_the_job_and_a_wrong_one_is_named_by_its_run_and_by_set_up(copy: Copy) -> None:
    result = copy.run({"dry_run": True}, BACKLINE__REPORT_LOW_STOCK__THRESHOLD="2")
    assert (result["outcomes"], result["skipped"]) == ({}, 1)  # the cup has 3; the jug has failed before
    wrong = "report_low_stock.threshold: input should be greater than or equal to 1"
    with pytest.raises(AssertionError, match=wrong):
        copy.run({"dry_run": True}, BACKLINE__REPORT_LOW_STOCK__THRESHOLD="0")
    check = "from backline.settings import settings; settings().check_job_sections()"
    variables = {**copy.variables, "BACKLINE__REPORT_LOW_STOCK__THRESHOLD": "0"}
    done = subprocess.run([sys.executable, "-c", check], check=False, env=variables, capture_output=True, text=True)
    assert wrong in done.stderr
