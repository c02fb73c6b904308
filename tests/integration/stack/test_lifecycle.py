"""A whole copy of the stack through the launcher: up, crash and restart, down without leftovers."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from backline.settings import ROOT
from stack.lifecycle import Stack
from stack.paths import Paths
from stack.processes import find_processes
from testkit.suite import temporary_stack_folder

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600), pytest.mark.xdist_group("stack")]


@dataclass(frozen=True)
class StackCli:
    """The tests' own copy of the stack, driven from another folder as a user would."""

    home: Path
    port: int

    def run(self, *arguments: str, port: int | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(ROOT / "backline"), *arguments], capture_output=True, text=True, check=False, cwd="/",
            env=self.environment(port),
        )  # fmt: skip

    def environment(self, port: int | None = None) -> dict[str, str]:
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("BACKLINE_", "AIRFLOW_"))}
        return {**variables, "BACKLINE_HOME": str(self.home), "BACKLINE_PORT": str(port or self.port)}

    def stack(self) -> Stack:
        return Stack(print, Paths(ROOT, self.home, self.port))

    def pid(self, service: str) -> int:
        return int(json.loads(self.run("status", "--json").stdout)["services"][service]["pid"])


def _free_port_range() -> int:
    while True:
        base = random.randrange(20000, 60000)
        try:
            for port in range(base, base + 5):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return base


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def stack_cli() -> Iterator[StackCli]:
    home = temporary_stack_folder() / "home"
    made = StackCli(home, _free_port_range())
    yield made
    made.run("down")
    shutil.rmtree(home.parent)


def test_a_used_port_is_named_with_the_fix(stack_cli: StackCli) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", stack_cli.port))
        other.listen()
        done = stack_cli.run("up")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"port {stack_cli.port}" in last
    assert "BACKLINE_PORT" in last
    assert "Traceback" not in done.stderr


def test_the_airflow_cli_has_a_clean_stdout_and_needs_no_scheduler(stack_cli: StackCli) -> None:
    done = stack_cli.run("airflow", "pools", "list", "-o", "json")
    assert done.returncode == 0, done.stderr
    pools = {pool["pool"]: pool["slots"] for pool in json.loads(done.stdout)}
    assert pools["email_urgent"] == "2"


def test_up_is_healthy_and_env_gives_access(stack_cli: StackCli) -> None:
    up = stack_cli.run("up")
    assert up.returncode == 0, up.stderr
    assert f"http://localhost:{stack_cli.port}" in up.stdout
    health = stack_cli.run("health", "--json")
    assert health.returncode == 0, health.stdout
    assert {"database", "migrations", "mail", "api-server", "scheduler", "dag-processor", "triggerer"} <= {
        check["name"] for check in json.loads(health.stdout)["checks"]
    }
    request = (
        'curl -sf --noproxy "*" -X POST "$BACKLINE_URL/auth/token" -H "Content-Type: application/json" '
        '-d "{\\"username\\": \\"$BACKLINE_USER\\", \\"password\\": \\"$BACKLINE_PASSWORD\\"}"'
    )
    script = f"{stack_cli.run('env').stdout}\n{request}"
    token = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert "access_token" in token


def test_a_second_up_changes_nothing(stack_cli: StackCli) -> None:
    before = {name: state.pid for name, state in stack_cli.stack().supervisor.states().items()}
    assert stack_cli.run("up").returncode == 0
    assert {name: state.pid for name, state in stack_cli.stack().supervisor.states().items()} == before


def test_another_port_for_a_running_copy_is_rejected(stack_cli: StackCli) -> None:
    done = stack_cli.run("up", port=stack_cli.port + 10)
    assert done.returncode == 1
    assert f"BACKLINE_PORT={stack_cli.port}" in done.stderr


def test_killed_services_restart_without_old_child_processes(stack_cli: StackCli) -> None:
    stack_id = stack_cli.stack().supervisor.stack_id
    killed = ("triggerer", "scheduler", "api-server")
    old = {service: {process.pid for process in find_processes(stack_id, service)} for service in killed}
    assert len(old["scheduler"]) > 2  # with its workers

    def is_replaced(service: str) -> bool:
        return stack_cli.pid(service) not in {0, *old[service]}

    for service in killed:
        os.kill(stack_cli.pid(service), signal.SIGKILL)
    for service in killed:
        _wait_until(partial(is_replaced, service), 60)
    _wait_until(lambda: stack_cli.run("health").returncode == 0, 240)
    for service in killed:
        assert not old[service] & {process.pid for process in find_processes(stack_id, service)}


def test_no_secret_on_any_command_line(stack_cli: StackCli) -> None:
    stack = stack_cli.stack()
    secrets = [value for key, value in stack.variables().items() if key.endswith(("PASSWORD", "KEY", "KEYS", "SECRET"))]
    lines = [shlex.join(process.cmdline()) for process in find_processes(stack.supervisor.stack_id)]
    assert len(lines) > 7
    assert not [line for line in lines if any(secret in line for secret in secrets)]


def test_down_leaves_nothing_even_in_a_crash_loop(stack_cli: StackCli) -> None:
    stack = stack_cli.stack()
    stack_id, runtime, sockets = stack.supervisor.stack_id, stack.cluster.runtime_folder, stack.cluster.socket_folder
    pids = {process.pid for process in find_processes(stack_id)}
    os.kill(stack_cli.pid("postgres"), signal.SIGKILL)
    done = stack_cli.run("down")
    assert done.returncode == 0, done.stderr
    assert find_processes(stack_id) == []
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert not runtime.exists()
    assert not sockets.exists()
    assert not list(stack_cli.home.rglob("*.lock")) + list(stack_cli.home.rglob("*.pid"))
    again = stack_cli.run("down")
    assert (again.returncode, again.stdout) == (0, "Nothing was running.\n")


def test_processes_of_a_killed_supervisor_are_ended_at_the_next_start(stack_cli: StackCli) -> None:
    assert stack_cli.run("setup").returncode == 0
    stack_id = stack_cli.stack().supervisor.stack_id
    supervisor = stack_cli.stack().supervisor.pid()
    assert supervisor is not None
    postmaster = stack_cli.pid("postgres")
    os.kill(supervisor, signal.SIGKILL)
    done = stack_cli.run("setup")
    assert done.returncode == 0, done.stderr
    assert stack_cli.pid("postgres") != postmaster
    new_supervisor = stack_cli.stack().supervisor.pid()
    servers = [p for p in find_processes(stack_id, "postgres") if "postgres" in p.name() and p.ppid() == new_supervisor]
    assert len(servers) == 1


def test_the_tests_leave_running_services_up(stack_cli: StackCli) -> None:
    assert stack_cli.run("setup").returncode == 0
    postmaster = stack_cli.pid("postgres")
    assert stack_cli.run("test", "--version").returncode == 0
    assert stack_cli.pid("postgres") == postmaster


def test_the_tests_stop_what_they_started(stack_cli: StackCli) -> None:
    stack_cli.run("down")
    done = stack_cli.run("test", "--version")
    assert done.returncode == 0, done.stderr
    assert "starting postgres" in done.stderr
    assert find_processes(stack_cli.stack().supervisor.stack_id) == []
    assert stack_cli.run("down").stdout == "Nothing was running.\n"


HANGING_TEST = """
import pathlib, pytest, subprocess, time
here = pathlib.Path(__file__).parent
@pytest.fixture
def held():
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    (here / "child").write_text(str(child.pid))
    (here / "held").touch()
    yield
    (here / "cleaned up").touch()
def test_hangs(held):
    time.sleep(60)
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_terminated_tests_clean_up(stack_cli: StackCli, tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING_TEST)
    command = [str(ROOT / "backline"), "test", "-n", workers, str(tmp_path)]
    with subprocess.Popen(command, env=stack_cli.environment()) as tests:
        _wait_until((tmp_path / "held").exists, 60)
        tests.terminate()
    assert tests.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "cleaned up").exists()
    child = int((tmp_path / "child").read_text())  # which no fixture ends
    _wait_until(lambda: not psutil.pid_exists(child), 10)
    assert find_processes(stack_cli.stack().supervisor.stack_id) == []
