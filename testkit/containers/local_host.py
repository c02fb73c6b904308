"""Runs docker-compose.airflow.yml without a container engine: its commands and variables, as local processes.

Commands and variables run as Compose resolves them; only host names, ports and folders are replaced by local ones.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from backline.errors import BacklineError, UnknownFailure
from backline.settings import ROOT
from stack.paths import Paths
from stack.postgres import SYSTEM_FOLDER, Cluster
from stack.secrets import Secrets
from testkit.containers import files
from testkit.processes import wait_for
from testkit.suite import marker, temporary_stack_folder
from testkit.tools import Program

CORE_SERVICES = ("mail", "api-server", "scheduler", "dag-processor", "triggerer")
INIT_TIMEOUT_SECONDS = 240.0


class LocalHost:
    """The services of the Compose file as processes of this machine."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        names = ("postgres", "redis", "api", "smtp", "page", "worker logs", "trigger logs")
        self.folder = folder
        self._variables = variables
        self.ports = dict(zip(names, _free_ports(len(names)), strict=True))
        local = {
            "BACKLINE_DB_HOST": "127.0.0.1", "BACKLINE_DB_PORT": self.ports["postgres"],
            "SMTP_HOST": "127.0.0.1", "SMTP_PORT": self.ports["smtp"],
        }  # fmt: skip
        self.values = files.example_values() | {key: str(value) for key, value in local.items()}
        self.services = files.compose_services(self.values, folder)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.image_environment = {key: self._localize(value) for key, value in files.image_environment().items()} | {
            f"AIRFLOW__LOGGING__{kind}_LOG_SERVER_PORT": str(self.ports[f"{kind.lower()} logs"])
            for kind in ("WORKER", "TRIGGER")
        }

    def _localize(self, text: str) -> str:
        ports = self.ports
        for container_value, local_value in (
            ("@postgres:5432", f"@127.0.0.1:{ports['postgres']}"),
            ("@redis:6379", f"@127.0.0.1:{ports['redis']}"),
            ("http://api-server:8080", f"http://127.0.0.1:{ports['api']}"),
            ("/opt/venv/bin", str(files.ensure_venv(files.IMAGE_REQUIREMENTS))),
            ("/opt/backline", str(ROOT)),
            ("/var/lib/backline", str(self.folder / "state")),
        ):
            text = text.replace(container_value, local_value)
        return text

    def environment(self, service: str) -> dict[str, str]:
        """The variables of the image and of the service."""
        own = {
            key: self._localize(value) for key, value in self.services[service].get("environment", {}).items() if value
        }
        return {
            **self.image_environment,
            **own,
            **self._variables,
            "HOME": str(self.folder),
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def start(self, service: str, command: list[str] | None = None, **more: Any) -> subprocess.Popen[bytes]:
        """Start the service's command, its output in a log file of its name."""
        numbers = {"8080": self.ports["api"], "1025": self.ports["smtp"], "8082": self.ports["page"]}
        argv = command or [
            str(numbers.get(word, word)) for word in map(self._localize, self.services[service]["command"])
        ]
        if command is None:
            argv[0] = shutil.which(argv[0], path=self.image_environment["PATH"]) or argv[0]
        more.setdefault("env", self.environment(service))
        with (self.folder / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(
                argv, cwd=more.pop("cwd", ROOT), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, **more,
            )  # fmt: skip
        self.processes[service] = process
        return process

    def log_tail(self, service: str) -> str:
        """The end of a service's log."""
        return (self.folder / f"{service}.log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def wait_until(self, condition: Callable[[], object], description: str, seconds: float) -> None:
        """Wait for a condition, which may raise while services start; UnknownFailure at once if a service has failed."""

        def holds() -> bool:
            for name, process in self.processes.items():
                if process.poll() not in {None, 0, -signal.SIGKILL}:
                    raise UnknownFailure(f"{name} has ended: {self.log_tail(name)}")
            try:
                return bool(condition())
            except (BacklineError, psycopg.OperationalError):
                return False

        wait_for(holds, description, seconds, poll_interval_seconds=0.2)

    def stop_all(self) -> None:
        """Stop all services in reverse order, the databases last; a failure does not prevent the others from stopping."""
        with ExitStack() as ending:
            for service, process in self.processes.items():
                ending.callback(_stop_process, process, signal.SIGINT if service == "postgres" else signal.SIGTERM)


def _stop_process(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(stop_signal)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def running_services(redis: Program, *workers: str, variables: Mapping[str, str] | None = None) -> Iterator[LocalHost]:
    """Run the databases, CORE_SERVICES and the workers, set up by `init`; everything is stopped and removed at the end.

    `variables` override those of the Compose file for every service.
    """
    folder = temporary_stack_folder()
    host = LocalHost(folder, variables or {})
    secrets = Secrets(superuser_password=host.values["POSTGRES_PASSWORD"])
    try:
        _start_postgres(host, secrets)
        start_redis(host, redis)
        (folder / "state" / "airflow" / "logs").mkdir(parents=True)
        if host.start("init").wait(INIT_TIMEOUT_SECONDS):
            raise UnknownFailure(f"init failed: {host.log_tail('init')}")
        for service in (*CORE_SERVICES, *workers):
            host.start(service)
        yield host
    finally:
        host.stop_all()
        shutil.rmtree(SYSTEM_FOLDER / secrets.instance_id, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def _start_postgres(host: LocalHost, secrets: Secrets) -> None:
    paths = Paths(ROOT, host.folder / "postgres", 8080)
    paths.create_folders()
    cluster = Cluster(paths, secrets)
    cluster.initialize()
    settings = host.services["postgres"]["command"][1:]
    listen = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={host.ports['postgres']}"]
    host.start(
        "postgres", [*cluster.server_command(), *settings, *listen], cwd="/",
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", **marker()}, user=cluster.user, extra_groups=[] if cluster.user else None,
    )  # fmt: skip
    superuser = f"host=127.0.0.1 port={host.ports['postgres']} user=postgres password={secrets.superuser_password}"

    def is_ready() -> bool:
        psycopg.connect(superuser).close()
        return True

    host.wait_until(is_ready, "PostgreSQL", 30)
    [script] = [each for each in host.services["postgres"]["volumes"] if each["type"] == "bind"]
    subprocess.run(
        [str(cluster.binary_folder() / "psql"), "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-d", superuser, "-f", script["source"]],
        check=True, env=host.environment("postgres"), capture_output=True,
    )  # fmt: skip


def start_redis(host: LocalHost, program: Program) -> None:
    """Start the broker by the Compose file's command; after a stop, it reuses its data."""
    shell, option, script = host.services["redis"]["command"]
    data = host.folder / "redis"
    data.mkdir(exist_ok=True)
    script = script.replace("dir /data", f"dir {data}\nport {host.ports['redis']}\nbind 127.0.0.1")
    script = script.replace("redis-server", str(program.path), 1)
    host.start(
        "redis", [shell, option, script], env={**host.environment("redis"), **program.environment, "PATH": os.defpath}
    )


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
