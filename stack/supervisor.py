"""supervisord for one copy: its configuration, and a client over its Unix socket."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import SupervisorTransport

from backline.errors import Misconfigured, UnknownFailure
from stack.paths import Paths, ensure_private_folder
from stack.postgres import Cluster
from stack.processes import SERVICE_NAME_VARIABLE, STACK_ID_VARIABLE

SERVICES = ("postgres", "mail", "api-server", "scheduler", "dag-processor", "triggerer", "maintenance")
"""In the order of starting."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What supervisord says of one service."""

    name: str
    state: str
    pid: int
    uptime: float

    @property
    def is_running(self) -> bool:
        """Whether its process is up (which is not yet: ready)."""
        return self.state in {"RUNNING", "STARTING"}


def render_config(paths: Paths, cluster: Cluster) -> str:
    """supervisord.conf. It holds no secret: those come through the environment."""
    python = [sys.executable, "-P", "-m"]
    marks = [f"{STACK_ID_VARIABLE}={cluster.runtime_folder.name}", f"{SERVICE_NAME_VARIABLE}=postgres"]
    catcher = [
        "--smtp-port",
        str(paths.smtp_port),
        "--web-port",
        str(paths.mail_web_port),
        "--maildir",
        str(paths.mail_folder),
    ]
    airflow = [*python, "stack.service"]
    programs = [
        # SIGINT is PostgreSQL's fast shutdown; its children are its own to stop.
        _program_section("postgres", ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "LC_ALL=C", *marks, *cluster.server_command()], paths,
                 user=cluster.user, directory="/", stopsignal="INT", stopasgroup="false", stopwaitsecs="60"),
        _program_section("mail", [*python, "sandbox.mail", *catcher], paths),
        _program_section("api-server", [*airflow, "api-server"], paths),
        _program_section("scheduler", [*airflow, "scheduler"], paths, stopwaitsecs="20"),
        _program_section("dag-processor", [*airflow, "dag-processor"], paths),
        # Signalled as a group, its child would stop answering it, and only SIGKILL would end them.
        _program_section("triggerer", [*airflow, "triggerer"], paths, stopasgroup="false", stopwaitsecs="15"),
        _program_section("maintenance", [*python, "backline.airflow.maintenance"], paths),
    ]  # fmt: skip
    supervisord = {
        "logfile": paths.log_folder / "supervisord.log",
        "logfile_maxbytes": "5MB",
        "logfile_backups": 2,
        "pidfile": cluster.runtime_folder / "supervisord.pid",
        "childlogdir": paths.log_folder,
        "identifier": "backline",
        "directory": paths.root,
        **({"user": "root"} if os.geteuid() == 0 else {}),
    }
    sections = [
        _render_section("supervisord", supervisord),
        _render_section("unix_http_server", {"file": cluster.runtime_folder / "supervisor.sock", "chmod": "0700"}),
        _render_section("rpcinterface:supervisor", {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface",
        }),
        *programs,
    ]  # fmt: skip
    return f"; made by ./backline; port={paths.port}\n" + "\n".join(sections)


def _program_section(name: str, command: Sequence[str], paths: Paths, **more: str | None) -> str:
    # Restarted whenever it ends; the tries are as good as endless, as supervisord would give up after them.
    values = {
        "command": shlex.join(command),
        "autostart": "false",
        "autorestart": "true",
        "startsecs": "1",
        "startretries": "1000000",
        "stopasgroup": "true",
        "killasgroup": "true",
        "stopwaitsecs": "10",
        "umask": "077",
        "redirect_stderr": "true",
        "stdout_logfile": paths.log_folder / f"{name}.log",
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "3",
        **{key: value for key, value in more.items() if value is not None},
    }
    return _render_section(f"program:{name}", values)


def _render_section(name: str, values: Mapping[str, object]) -> str:
    lines = [f"{key}={str(value).replace('%', '%%')}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines]) + "\n"


class Supervisor:
    """A client of this copy's supervisord."""

    def __init__(self, paths: Paths, cluster: Cluster) -> None:
        self._paths = paths
        self._cluster = cluster
        self._socket = cluster.runtime_folder / "supervisor.sock"

    def _rpc(self, method: str, *arguments: object) -> Any:
        """One call, on a connection of its own: a kept one stays broken after its first failure."""
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        with ServerProxy("http://127.0.0.1", transport=transport, allow_none=True) as server:
            try:
                return getattr(server.supervisor, method)(*arguments)
            except HTTPException as exc:
                raise ConnectionError(f"supervisord: {exc}") from exc

    @property
    def stack_id(self) -> str:
        """The mark that every process of this copy carries."""
        return self._cluster.runtime_folder.name

    def pid(self) -> int | None:
        """supervisord's process id, or None when it does not run."""
        if not self._socket.exists():
            return None
        try:
            return int(self._rpc("getPID"))
        except OSError:
            return None

    def configured_port(self) -> int:
        """BACKLINE_PORT of the running copy, which may not be the caller's."""
        with contextlib.suppress(OSError, ValueError):
            first = self._paths.supervisor_config_file.read_text(encoding="utf-8").partition("\n")[0]
            return int(first.rpartition("port=")[2])
        return self._paths.port

    def start_daemon(self, environment: Mapping[str, str]) -> None:
        """Start supervisord with no service started; UnknownFailure if it does not come up."""
        ensure_private_folder(self._cluster.runtime_folder, os.geteuid(), os.getegid())
        self._paths.supervisor_config_file.write_text(render_config(self._paths, self._cluster), encoding="utf-8")
        child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "stack.supervisord", "-n", "-c", str(self._paths.supervisor_config_file)],
            cwd=self._paths.root,
            env={**environment, STACK_ID_VARIABLE: self.stack_id},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 20
        while self.pid() is None:
            if child.poll() is not None or time.monotonic() > deadline:
                raise UnknownFailure(f"supervisord did not start; see {self._paths.log_folder / 'supervisord.log'}")
            time.sleep(0.02)

    def states(self) -> dict[str, ServiceState]:
        """All services by name; none when supervisord does not run."""
        if self.pid() is None:
            return {}
        try:
            infos = self._rpc("getAllProcessInfo")
        except OSError:
            return {}
        return {
            info["name"]: ServiceState(
                info["name"], info["statename"], info["pid"], float(info["now"] - info["start"]) if info["pid"] else 0.0
            )
            for info in infos
        }

    def start(self, name: str) -> None:
        """Start a service, unless it runs; does not wait."""
        with contextlib.suppress(Fault):  # ALREADY_STARTED
            self._rpc("startProcess", name, False)

    def stop(self, *names: str, timeout: float = 75.0) -> None:
        """Stop services at the same time and wait until they are gone."""
        for name in names:
            with contextlib.suppress(Fault):  # NOT_RUNNING
                self._rpc("stopProcess", name, False)
        self.wait_stopped(*names, timeout=timeout)

    def request_stop(self, name: str) -> None:
        """Begin to stop a service; does not wait."""
        with contextlib.suppress(Fault):
            self._rpc("stopProcess", name, False)

    def wait_stopped(self, *names: str, timeout: float) -> bool:
        """Wait until none of them has a process; False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            states = self.states()
            if not any(states[name].pid or states[name].state == "BACKOFF" for name in names if name in states):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)

    def shut_down_daemon(self) -> None:
        """End supervisord itself and wait for it."""
        pid = self.pid()
        if pid is None:
            return
        try:
            process = psutil.Process(pid)
            self._rpc("shutdown")
            process.wait(30)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired:
            process.kill()


def log_files(paths: Paths, service: str | None) -> list[Path]:
    """The log files of one service or of all; Misconfigured for an unknown one, or when there are none yet."""
    if service is not None and service not in (*SERVICES, "supervisord"):
        raise Misconfigured(f"no service {service!r}; use one of {', '.join(SERVICES)}, supervisord")
    wanted = [paths.log_folder / f"{name}.log" for name in ((service,) if service else SERVICES)]
    found = [path for path in wanted if path.exists()]
    if not found:
        raise Misconfigured(f"no logs in {paths.log_folder} yet; run ./backline up")
    return found
