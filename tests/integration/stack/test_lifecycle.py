"""A whole copy of the stack through the launcher: up, crash, come back, down without a trace."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from backline.settings import ROOT
from backline.stack.lifecycle import Stack
from backline.stack.paths import Paths
from backline.stack.processes import supervised

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600), pytest.mark.xdist_group("stack")]


@dataclass(frozen=True)
class Copy:
    """A copy of the stack of the tests' own, driven from another folder as a user would."""

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


def _free_ports() -> int:
    while True:
        base = random.randrange(20000, 60000)
        try:
            for port in range(base, base + 5):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return base


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def copy() -> Iterator[Copy]:
    # Not pytest's own folder, which root keeps closed to PostgreSQL's user.
    home = Path(tempfile.mkdtemp(prefix="backline-lifecycle-")) / "home"
    home.parent.chmod(0o755)
    made = Copy(home, _free_ports())
    yield made
    made.run("down")
    shutil.rmtree(home.parent)


def test_a_taken_port_is_named_with_the_way_out(copy: Copy) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", copy.port))
        other.listen()
        done = copy.run("up")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"port {copy.port}" in last
    assert "BACKLINE_PORT" in last
    assert "Traceback" not in done.stderr


def test_the_airflow_cli_has_a_clean_stdout_and_needs_no_scheduler(copy: Copy) -> None:
    done = copy.run("airflow", "pools", "list", "-o", "json")
    assert done.returncode == 0, done.stderr
    pools = {pool["pool"]: pool["slots"] for pool in json.loads(done.stdout)}
    assert pools["email_urgent"] == "2"


def test_up_is_healthy_and_env_leads_to_it(copy: Copy) -> None:
    up = copy.run("up")
    assert up.returncode == 0, up.stderr
    assert f"http://localhost:{copy.port}" in up.stdout
    health = copy.run("health", "--json")
    assert health.returncode == 0, health.stdout
    assert {"database", "migrations", "mail", "api-server", "scheduler", "dag-processor", "triggerer"} <= {
        check["name"] for check in json.loads(health.stdout)["checks"]
    }
    ask = (
        'curl -sf --noproxy "*" -X POST "$BACKLINE_URL/auth/token" -H "Content-Type: application/json" '
        '-d "{\\"username\\": \\"$BACKLINE_USER\\", \\"password\\": \\"$BACKLINE_PASSWORD\\"}"'
    )
    script = f"{copy.run('env').stdout}\n{ask}"
    token = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert "access_token" in token


def test_a_second_up_changes_nothing(copy: Copy) -> None:
    before = {name: state.pid for name, state in copy.stack().supervisor.states().items()}
    assert copy.run("up").returncode == 0
    assert {name: state.pid for name, state in copy.stack().supervisor.states().items()} == before


def test_another_port_for_a_running_copy_is_refused(copy: Copy) -> None:
    done = copy.run("up", port=copy.port + 10)
    assert done.returncode == 1
    assert f"BACKLINE_PORT={copy.port}" in done.stderr


def test_killed_services_come_back_without_their_predecessors_children(copy: Copy) -> None:
    stack_id = copy.stack().supervisor.stack_id
    killed = ("triggerer", "scheduler", "api-server")
    old = {service: {process.pid for process in supervised(stack_id, service)} for service in killed}
    assert len(old["scheduler"]) > 2  # with its workers
    for service in killed:
        os.kill(copy.pid(service), signal.SIGKILL)
    for service in killed:
        _until(lambda service=service: copy.pid(service) not in {0, *old[service]}, 60)
    _until(lambda: copy.run("health").returncode == 0, 240)
    for service in killed:
        assert not old[service] & {process.pid for process in supervised(stack_id, service)}


def test_no_secret_on_any_command_line(copy: Copy) -> None:
    stack = copy.stack()
    secrets = [value for key, value in stack.exports().items() if key.endswith(("PASSWORD", "KEY", "KEYS", "SECRET"))]
    lines = [shlex.join(process.cmdline()) for process in supervised(stack.supervisor.stack_id)]
    assert len(lines) > 7
    assert not [line for line in lines if any(secret in line for secret in secrets)]


def test_down_leaves_nothing_even_in_a_crash_loop(copy: Copy) -> None:
    stack = copy.stack()
    stack_id, runtime, sockets = stack.supervisor.stack_id, stack.cluster.runtime, stack.cluster.sockets
    pids = {process.pid for process in supervised(stack_id)}
    os.kill(copy.pid("postgres"), signal.SIGKILL)
    done = copy.run("down")
    assert done.returncode == 0, done.stderr
    assert supervised(stack_id) == []
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert not runtime.exists()
    assert not sockets.exists()
    assert not list(copy.home.rglob("*.lock")) + list(copy.home.rglob("*.pid"))
    again = copy.run("down")
    assert (again.returncode, again.stdout) == (0, "Nothing was running.\n")


def test_what_a_killed_supervisor_left_is_ended_at_the_next_start(copy: Copy) -> None:
    assert copy.run("setup").returncode == 0
    stack_id = copy.stack().supervisor.stack_id
    supervisor = copy.stack().supervisor.pid()
    assert supervisor is not None
    postmaster = copy.pid("postgres")
    os.kill(supervisor, signal.SIGKILL)
    done = copy.run("setup")
    assert done.returncode == 0, done.stderr
    assert copy.pid("postgres") != postmaster
    assert (
        len(
            [
                p
                for p in supervised(stack_id, "postgres")
                if "postgres" in p.name() and p.ppid() == copy.stack().supervisor.pid()
            ]
        )
        == 1
    )


def test_the_tests_leave_up_what_was_up(copy: Copy) -> None:
    assert copy.run("setup").returncode == 0
    postmaster = copy.pid("postgres")
    assert copy.run("test", "--version").returncode == 0
    assert copy.pid("postgres") == postmaster


def test_the_tests_stop_what_they_started(copy: Copy) -> None:
    copy.run("down")
    done = copy.run("test", "--version")
    assert done.returncode == 0, done.stderr
    assert "starting postgres" in done.stderr
    assert supervised(copy.stack().supervisor.stack_id) == []
    assert copy.run("down").stdout == "Nothing was running.\n"


HANGING = """
import pathlib, pytest, time
here = pathlib.Path(__file__).parent
@pytest.fixture
def held():
    (here / "held").touch()
    yield
    (here / "taken away").touch()
def test_hangs(held):
    time.sleep(60)
"""


def test_told_to_stop_the_tests_take_away_what_they_hold(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    with subprocess.Popen([str(ROOT / "backline"), "test", str(tmp_path)], env=copy.environment()) as tests:
        _until((tmp_path / "held").exists, 60)
        tests.terminate()
    assert tests.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "taken away").exists()
    assert supervised(copy.stack().supervisor.stack_id) == []
