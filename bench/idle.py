"""idle: what the whole stack takes at rest, beside bare Airflow.

Ours: everything that `./backline up` starts, the supervisor and PostgreSQL included, with the shipped schedules and the
reference app's empty tables. Then the same with a dummy DAG for each job of the catalogue that has none yet. Bare:
Airflow's four components with its own settings (scheduler, executor and intervals as they come), one trivial DAG, no
plugins, on a database of its own in the same PostgreSQL. They take turns, each for a whole period of the most frequent
crons. CPU is of one core; memory is PSS, so that shared pages count once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from psycopg.conninfo import conninfo_to_dict

from backline.errors import UnknownFailure
from bench.catalog_jobs import dummy_jobs
from bench.harness import BenchRun
from bench.parse import TRIVIAL_DAG
from bench.report import BenchResult, rounded
from stack import reference_app
from stack.processes import find_processes
from testkit.processes import free_port, wait_for
from testkit.stack_copy import StackCopy

AIRFLOW_COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
MEASURED_SECONDS = 900.0
"""Of each side: a whole period of the crons that run every 15 minutes."""
BOUNDARY_SECONDS = 300.0
"""Sides are measured from a multiple of this on, so that none has the better part of an hour."""
SETTLE_SECONDS = 60.0
"""After the start: first parses, first heartbeats, first queries."""
READY_TIMEOUT_SECONDS = 120.0
AIRFLOW_COMMAND = [sys.executable, "-P", "-m", "airflow"]
ListProcesses = Callable[[], Iterable[psutil.Process]]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one side took."""

    cpu_percent: float
    """Of one core."""
    memory_mib: float
    by_service: Mapping[str, tuple[float, float]]
    """Service to (CPU percent, MiB)."""


def run(bench: BenchRun) -> BenchResult:
    """Measure the stack as shipped, with the whole catalogue, and bare Airflow."""
    found: dict[str, Usage] = {}

    def measure(name: str, processes: ListProcesses) -> None:
        if not bench.short:
            time.sleep(seconds_to_boundary(time.time()))
        found[name] = usage = measure_usage(processes, bench.full_or_short(MEASURED_SECONDS, 2.0))
        bench.report(f"idle: {name} {usage.cpu_percent:.2f} % of a core, {usage.memory_mib:.0f} MiB")

    stack = bench.full_stack()
    reference_app.apply_schema(stack.dsn)
    measure("backline", partial(_backline_processes, stack))
    with dummy_jobs(stack.project) as added:
        bench.report(f"idle: added {len(added)} dummy jobs")
        # It reads the settings, and with them the watches, once.
        stack.stack.supervisor.stop("triggerer")
        stack.stack.supervisor.start("triggerer")
        measure("catalog", partial(_backline_processes, stack))
    server = bench.database_server()
    with bare_airflow(bench) as roots:
        measure("bare", partial(_bare_processes, roots, server))
    return build_result(found)


def seconds_to_boundary(now: float) -> float:
    """Seconds until a multiple of `BOUNDARY_SECONDS` that leaves time to settle first."""
    return SETTLE_SECONDS + -(now + SETTLE_SECONDS) % BOUNDARY_SECONDS


def measure_usage(processes: ListProcesses, seconds: float) -> Usage:
    """What those processes and their descendants take over so many seconds, those included that come and go meanwhile."""
    before = _cpu_seconds(with_descendants(processes()))
    started = time.monotonic()
    time.sleep(seconds)
    last = with_descendants(processes())
    after = _cpu_seconds(last)
    elapsed = time.monotonic() - started
    memory = _memory_mib(last)
    names = sorted(after.keys() | memory.keys())
    by_name = {
        name: (100 * (after.get(name, 0.0) - before.get(name, 0.0)) / elapsed, memory.get(name, 0.0)) for name in names
    }
    return Usage(sum(cpu for cpu, _ in by_name.values()), sum(mib for _, mib in by_name.values()), by_name)


def with_descendants(processes: Iterable[psutil.Process]) -> list[tuple[psutil.Process, str]]:
    """Each process once, with its service: its own mark, else its parent's. PostgreSQL's backends have none left."""
    found: dict[int, tuple[psutil.Process, str]] = {}
    left: list[psutil.Process] = []
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            found[process.pid] = (process, service_of(process))
            left.append(process)
    while left:
        parent = left.pop()
        with contextlib.suppress(psutil.Error, OSError):
            for child in parent.children():
                if child.pid not in found:
                    found[child.pid] = (child, found[parent.pid][1])
                    left.append(child)
    return list(found.values())


def _cpu_seconds(processes: Iterable[tuple[psutil.Process, str]]) -> dict[str, float]:
    """CPU seconds by service so far, ended children included: they moved to their parent's account."""
    sums: dict[str, float] = {}
    for process, name in processes:
        with contextlib.suppress(psutil.Error, OSError):
            sums[name] = sums.get(name, 0.0) + sum(process.cpu_times()[:4])
    return sums


def _memory_mib(processes: Iterable[tuple[psutil.Process, str]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for process, name in processes:
        with contextlib.suppress(psutil.Error, OSError):
            sums[name] = sums.get(name, 0.0) + _pss_mib(process.pid)
    return sums


def _pss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def service_of(process: psutil.Process) -> str:
    """Which service a process belongs to."""
    return process.environ().get("SUPERVISOR_PROCESS_NAME") or "supervisord"


def _backline_processes(copy: StackCopy) -> list[psutil.Process]:
    """Every process of that copy of the stack."""
    return find_processes(copy.stack.supervisor.stack_id)


def _bare_processes(processes: ListProcesses, server: StackCopy) -> list[psutil.Process]:
    """Bare Airflow's, and PostgreSQL's."""
    return [*processes(), *find_processes(server.stack.supervisor.stack_id, "postgres")]


@contextmanager
def bare_airflow(bench: BenchRun) -> Iterator[ListProcesses]:
    """Airflow as it comes, ready; gives the function that lists its processes."""
    home, port = bench.folder / "bare", free_port()
    (home / "dags").mkdir(parents=True, exist_ok=True)
    (home / "dags" / "trivial.py").write_text(TRIVIAL_DAG, encoding="utf-8")
    with ExitStack() as running:
        running.callback(shutil.rmtree, home, ignore_errors=True)
        dsn = running.enter_context(bench.database("bare"))
        environment = _bare_environment(home, port, dsn)
        command = [*_unset_inherited_variables(environment), *AIRFLOW_COMMAND]
        with bench.managed_process([*command, "db", "migrate"], log="bare-db", environment=environment) as child:
            if child.wait(READY_TIMEOUT_SECONDS):
                raise UnknownFailure(f"airflow db migrate failed; see {bench.log_file('bare-db')}")
        roots = []
        for name in AIRFLOW_COMPONENTS:
            mark = {"SUPERVISOR_PROCESS_NAME": name}  # so that a process tells which service it is, as ours do
            process = bench.managed_process([*command, name], log=f"bare-{name}", environment=environment | mark)
            roots.append(psutil.Process(running.enter_context(process).pid))
        wait_for(lambda: _is_airflow_healthy(port), "bare Airflow", READY_TIMEOUT_SECONDS, poll_interval_seconds=0.5)
        yield lambda: roots


def _bare_environment(home: Path, port: int, dsn: str) -> dict[str, str]:
    """Only what it needs to start beside another one."""
    parts = conninfo_to_dict(dsn)
    address = f"{parts['user']}:{parts['password']}@/{parts['dbname']}?host={parts['host']}"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{address}",
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-a-bench-that-lives-for-a-minute-and-is-64-bytes-long",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "PYTHONPATH": "",
        "SPT_NOENV": "1",
    }


def _unset_inherited_variables(environment: Mapping[str, str]) -> list[str]:
    """The start of a command that hides from it what the caller has set for another Airflow."""
    foreign = [key for key in os.environ if key.startswith(("AIRFLOW", "BACKLINE_")) and key not in environment]
    return ["/usr/bin/env", *(f"--unset={key}" for key in foreign)]


def _is_airflow_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5) as answer:
            health: dict[str, dict[str, str]] = json.load(answer)
    except (urllib.error.URLError, OSError, ValueError):
        return False
    wanted = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    return all((health.get(part) or {}).get("status") == "healthy" for part in wanted)


def build_result(found: Mapping[str, Usage]) -> BenchResult:
    """Ratios to bare Airflow, and the figures behind them."""
    ours, catalog, bare = (found[name] for name in ("backline", "catalog", "bare"))
    keys = {
        "ratio_cpu": ours.cpu_percent / bare.cpu_percent,
        "ratio_mem": ours.memory_mib / bare.memory_mib,
        "ratio_cpu_catalog": catalog.cpu_percent / bare.cpu_percent,
        "cpu_pct": ours.cpu_percent,
        "catalog_cpu_pct": catalog.cpu_percent,
        "bare_cpu_pct": bare.cpu_percent,
        "mem_mib": ours.memory_mib,
        "bare_mem_mib": bare.memory_mib,
    }
    raw = {
        "rounds": {
            name: [
                {
                    "cpu_percent": round(usage.cpu_percent, 2),
                    "memory_mib": round(usage.memory_mib),
                    "services": {service: rounded(values, 2) for service, values in usage.by_service.items()},
                }
            ]
            for name, usage in found.items()
        }
    }
    return BenchResult("idle", keys, raw)
