"""The idle bench's measurement: the CPU of ended children counts, and memory is attributed to services."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from croniter import croniter

from backline.settings import ROOT
from bench.catalog_jobs import WATCH, catalog_jobs, dummy_jobs
from bench.idle import Usage, build_result, measure_usage, seconds_to_boundary, service_of, with_descendants

# Burns CPU only in children that end, one after another, and holds 50 MiB.
BUSY_SCRIPT = """
import subprocess, sys
held = bytearray(b"x" * 50 * 2**20)
print("ready", flush=True)
while True:
    subprocess.run([sys.executable, "-S", "-c", "sum(range(4_000_000))"])
"""


@pytest.fixture
def busy_process() -> Iterator[psutil.Process]:
    environment = {**os.environ, "SUPERVISOR_PROCESS_NAME": "busy"}
    command = [sys.executable, "-c", BUSY_SCRIPT]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield psutil.Process(process.pid)
        process.kill()


def test_children_that_have_ended_count(busy_process: psutil.Process) -> None:
    found = measure_usage(lambda: [busy_process], 1.5)
    assert set(found.by_service) == {"busy"}
    assert found.cpu_percent > 20
    assert found.memory_mib > 50


def test_a_process_is_attributed_to_its_service(busy_process: psutil.Process) -> None:
    assert service_of(busy_process) == "busy"


def test_postgres_backends_count_as_postgres(server: str) -> None:
    with psycopg.connect(server) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        postmaster = backend.parent()
        assert postmaster is not None
        found = {process.pid: name for process, name in with_descendants([postmaster])}
        assert found[backend.pid] == found[postmaster.pid]
        usage = measure_usage(lambda: [postmaster], 0.2)
    assert usage.memory_mib > 0


def test_ratios_are_to_bare_airflow() -> None:
    ours, catalog, bare = (
        Usage(30.0, 1200.0, {}),
        Usage(32.0, 1300.0, {}),
        Usage(20.0, 1000.0, {"postgres": (2.0, 70.0)}),
    )
    found = build_result({"backline": ours, "catalog": catalog, "bare": bare})
    assert list(found.metrics)[:3] == ["ratio_cpu", "ratio_mem", "ratio_cpu_catalog"]
    assert found.metrics["ratio_cpu"] == pytest.approx(1.5)
    assert found.metrics["ratio_mem"] == pytest.approx(1.2)
    assert found.metrics["ratio_cpu_catalog"] == pytest.approx(1.6)
    assert found.raw["rounds"]["bare"][0]["services"] == {"postgres": [2.0, 70.0]}


@pytest.mark.parametrize(("now", "seconds"), [(0.0, 300.0), (239.0, 61.0), (240.0, 60.0), (241.0, 359.0)])
def test_a_side_begins_at_a_boundary_once_it_has_settled(now: float, seconds: float) -> None:
    assert seconds_to_boundary(now) == seconds


def test_the_catalogue_names_every_job_and_its_schedule() -> None:
    jobs = catalog_jobs()
    shipped = {path.stem for path in (ROOT / "dags").rglob("*.py")} - {"dispatch", "send"}
    assert shipped <= set(jobs)
    for job, (_, schedule) in jobs.items():
        assert schedule in ("", WATCH) or len(croniter.expand(schedule)[0][0]) <= 4, job


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, as the bench's."""
    for folder in ("dags", "include", "plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


LIST_DAGS = """
import json
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("dags")
print(json.dumps({"dags": sorted(bag.dags), "errors": bag.import_errors}))
"""


def test_each_missing_job_becomes_a_dag_that_is_removed_again(project: Path) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "BACKLINE"))},
        "AIRFLOW_HOME": str(project / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(project / "plugins"),
        "PYTHONPATH": f"{project / 'plugins'}:{project}",
    }
    with dummy_jobs(project) as added:
        done = subprocess.run(
            [sys.executable, "-c", LIST_DAGS], check=True, cwd=project, env=environment, capture_output=True, text=True
        )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["errors"] == {}
    assert set(found["dags"]) >= catalog_jobs().keys()
    assert set(added) == catalog_jobs().keys() - {path.stem for path in (ROOT / "dags").rglob("*.py")}
    after = {
        path: path.read_bytes()
        for path in project.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "airflow" not in path.relative_to(project).parts[:1]
    }
    assert after == before
