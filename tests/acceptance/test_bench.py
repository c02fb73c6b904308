"""`./backline bench` in its short form: every letter arrives, and each last line has its keys. No time is judged."""

from __future__ import annotations

import json
import signal
import subprocess
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

# DESIGN.md section 9: scripts rely on these names. In an order in which the stack starts once.
KEYS = {
    "latency": {"p50_ms", "p99_ms", "celery_p50_ms", "cold_p99_ms"},
    "throughput": {"ratio", "ratio_best", "ratio_ceiling", "ratio_procrastinate", "ratio_pgqueuer"},
    "channels": {"ratio_sms", "ratio_push", "ratio_webhook"},
    "priority": {"p99_ms"},
    "idle": {"ratio_cpu", "ratio_mem", "ratio_cpu_catalog"},
    "enqueue": {"ratio_sql", "ratio_commit"},
    "growth": {"drop_pct", "snapshot_drop_pct"},
    "parse": {"total_s", "worst_ms"},
}


@pytest.fixture(scope="module")
def home() -> IsolatedStack:
    """The caller's own BACKLINE_HOME, for the programs and the peers that its bench folder keeps; ports of our own."""
    return IsolatedStack(Paths.from_environment().home, first_free_port(PORT_OFFSET + 5))


@pytest.fixture(scope="module")
def bench(home: IsolatedStack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All benches, run once: their last lines by name, what --json has, and what is left in the folder."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    done = home.run("bench", *KEYS, "--short", "--json", str(file), seconds=550)
    lines = dict(line.removeprefix("bench ").split(": ", 1) for line in done.stdout.splitlines())
    return {"lines": lines, "figures": json.loads(file.read_text()), "left": bench_folders(home)}


def bench_folders(home: IsolatedStack) -> list[str]:
    return sorted(path.name for path in (home.home / "bench").iterdir())


@pytest.mark.parametrize("name", KEYS)
def test_last_line(name: str, bench: dict[str, Any]) -> None:
    figures = {key: float(value) for key, value in (part.split("=") for part in bench["lines"][name].split())}
    assert figures.keys() >= KEYS[name]
    # A fall may be none at all.
    assert all(value > 0 or (key.endswith("drop_pct") and value == 0) for key, value in figures.items())


def test_file(bench: dict[str, Any]) -> None:
    figures = bench["figures"]
    assert list(figures["benches"]) == list(KEYS)
    assert figures["short"]
    assert figures["versions"]["celery"].startswith("5.7")
    assert figures["versions"]["procrastinate"].startswith("3.10")
    assert figures["versions"]["pgqueuer"].startswith("1.6")
    assert figures["machine"]["cores"] > 0
    assert len(figures["benches"]["latency"]["ms"]) == figures["benches"]["latency"]["samples"]


def test_idle_counts_every_service_of_both(bench: dict[str, Any]) -> None:
    rounds = bench["figures"]["benches"]["idle"]["rounds"]
    airflow = {"postgres", "api-server", "scheduler", "dag-processor", "triggerer"}
    assert all(round_["services"].keys() == airflow for round_ in rounds["bare"])
    assert all(
        round_["services"].keys() == airflow | {"mail", "maintenance", "supervisord"} for round_ in rounds["backline"]
    )


def test_only_what_was_fetched_is_left(bench: dict[str, Any]) -> None:
    assert bench["left"] == ["logs", "tools", "venv"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_in_mid_run_it_takes_everything_away(home: IsolatedStack, number: signal.Signals, code: int) -> None:
    command = [str(ROOT / "backline"), "bench", "growth"]
    with subprocess.Popen(command, env=home.environment(), stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stderr is not None
        assert any("filled in" in line for line in bench.stderr)  # a table of several, the next ones are larger
        stack = Stack(str, Paths(ROOT, home.home / "bench" / "home", home.port + PORT_OFFSET))
        running = [*psutil.Process(bench.pid).children(recursive=True), *find_processes(stack.supervisor.stack_id)]
        assert {"postgres"} <= {process.name() for process in running}
        bench.send_signal(number)
        bench.communicate(timeout=60)
    assert bench.returncode == code
    assert not [each for each in running if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not stack.cluster.socket_folder.exists()
    assert not stack.cluster.runtime_folder.exists()
    assert set(bench_folders(home)) <= {"logs", "tools", "venv"}


def test_an_unknown_bench_is_named(home: IsolatedStack) -> None:
    done = home.run("bench", "latencey", check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("backline: no bench 'latencey'; use one of latency,")
