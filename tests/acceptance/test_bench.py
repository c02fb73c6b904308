"""`./backline bench` in its short form: every email arrives, and each last line has its keys. Times are not checked.

The default tier runs the benches that need only PostgreSQL and Python; the others install peers or start the stack.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from backline.settings import ROOT
from bench.harness import PORT_OFFSET
from stack.lifecycle import Stack
from stack.paths import Paths
from stack.processes import find_processes
from tests.acceptance.isolated_stack import IsolatedStack, first_free_port

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

QUICK = ("growth", "parse")
# DESIGN.md section 9: scripts rely on these names. The order needs one start of the stack.
KEYS = {
    "latency": {"p50_ms", "p99_ms", "celery_p50_ms", "cold_p99_ms"},
    "throughput": {"ratio", "ratio_best", "ratio_ceiling", "ratio_procrastinate", "ratio_pgqueuer"},
    "channels": {"ratio_sms", "ratio_push", "ratio_webhook"},
    "priority": {"p99_ms"},
    "idle": {"ratio_cpu", "ratio_mem", "ratio_cpu_catalog"},
    "enqueue": {"ratio_sql", "ratio_commit"},
    "growth": {"drop_pct", "snapshot_drop_pct"},
    "parse": {"total_s", "worst_ms"},
    "libraries": {"ratio_css", "ratio_smtp"},
}
KEPT_FOLDERS = {"logs", "tools", "venv"}


@pytest.fixture(scope="module")
def home() -> IsolatedStack:
    """The caller's own BACKLINE_HOME, whose bench folder keeps programs and peers, with other ports."""
    return IsolatedStack(Paths.from_environment().home, first_free_port(PORT_OFFSET + 5))


@dataclass(frozen=True)
class Run:
    """One run: the last lines by name, the content of the JSON file, and the files left in the folder."""

    lines: dict[str, str]
    figures: dict[str, Any]
    left: list[str]


def run_benches(home: IsolatedStack, names: Sequence[str], file: Path) -> Run:
    done = home.run("bench", *names, "--short", "--json", str(file), seconds=550)
    lines = dict(line.removeprefix("bench ").split(": ", 1) for line in done.stdout.splitlines())
    return Run(lines, json.loads(file.read_text()), bench_folders(home))


@pytest.fixture(scope="module")
def quick(home: IsolatedStack, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_benches(home, QUICK, tmp_path_factory.mktemp("bench") / "quick.json")


@pytest.fixture(scope="module")
def full(home: IsolatedStack, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_benches(home, list(KEYS), tmp_path_factory.mktemp("bench") / "full.json")


def bench_folders(home: IsolatedStack) -> list[str]:
    return sorted(path.name for path in (home.home / "bench").iterdir())


def assert_last_line(run: Run, name: str) -> None:
    figures = {key: float(value) for key, value in (part.split("=") for part in run.lines[name].split())}
    assert figures.keys() >= KEYS[name]
    # A drop may be zero.
    assert all(value > 0 or (key.endswith("drop_pct") and value == 0) for key, value in figures.items())


@pytest.mark.parametrize("name", QUICK)
def test_last_line(name: str, quick: Run) -> None:
    assert_last_line(quick, name)


def test_file(quick: Run) -> None:
    assert list(quick.figures["benches"]) == list(QUICK)
    assert quick.figures["short"]
    assert quick.figures["versions"]["celery"].startswith("5.7")
    assert quick.figures["versions"]["procrastinate"].startswith("3.10")
    assert quick.figures["versions"]["pgqueuer"].startswith("1.6")
    assert quick.figures["machine"]["cores"] > 0


def test_only_downloads_and_logs_are_left(quick: Run) -> None:
    assert set(quick.left) <= KEPT_FOLDERS


@pytest.mark.extended
@pytest.mark.parametrize("name", KEYS)
def test_last_line_of_every_bench(name: str, full: Run) -> None:
    assert_last_line(full, name)


@pytest.mark.extended
def test_file_of_every_bench(full: Run) -> None:
    assert list(full.figures["benches"]) == list(KEYS)
    latency = full.figures["benches"]["latency"]
    assert len(latency["ms"]) == latency["samples"]
    assert set(full.left) == KEPT_FOLDERS


@pytest.mark.extended
def test_idle_counts_every_service_of_both(full: Run) -> None:
    rounds = full.figures["benches"]["idle"]["rounds"]
    airflow = {"postgres", "api-server", "scheduler", "dag-processor", "triggerer"}
    assert all(round_["services"].keys() == airflow for round_ in rounds["bare"])
    assert all(
        round_["services"].keys() == airflow | {"mail", "maintenance", "supervisord"} for round_ in rounds["backline"]
    )


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.extended)],
)
def test_a_stopped_run_removes_everything(home: IsolatedStack, number: signal.Signals, code: int) -> None:
    command = [str(ROOT / "backline"), "bench", "growth"]
    with subprocess.Popen(command, env=home.environment(), stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stderr is not None
        assert any("filled in" in line for line in bench.stderr)  # a table of several, the next ones are larger
        stack = Stack(lambda _: None, Paths(ROOT, home.home / "bench" / "home", home.port + PORT_OFFSET))
        running = [*psutil.Process(bench.pid).children(recursive=True), *find_processes(stack.supervisor.stack_id)]
        assert {"postgres"} <= {process.name() for process in running}
        bench.send_signal(number)
        bench.communicate(timeout=60)
    assert bench.returncode == code
    assert not [each for each in running if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not stack.cluster.socket_folder.exists()
    assert not stack.cluster.runtime_folder.exists()
    assert set(bench_folders(home)) <= KEPT_FOLDERS


def test_an_unknown_bench_is_named(home: IsolatedStack) -> None:
    done = home.run("bench", "latencey", check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("backline: no bench 'latencey'; use one of latency,")
