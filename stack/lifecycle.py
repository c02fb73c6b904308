"""Sets up, starts and stops one copy of the stack."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial

from backline.db.migrate import migrate
from backline.errors import BacklineError, Misconfigured, UnknownFailure
from backline.settings import settings
from stack import health
from stack.environment import build_environment
from stack.paths import Paths
from stack.postgres import MANUAL_RUN_DATABASE, Cluster
from stack.processes import terminate_processes, terminate_tasks
from stack.reference_app import update_schema
from stack.secrets import Secrets, load_or_create, write_airflow_passwords
from stack.supervisor import SERVICES, ServiceState, Supervisor

Report = Callable[[str], None]
BASE_SERVICES = ("postgres", "mail")
"""Services that the Airflow CLI needs."""
READY_TIMEOUT_SECONDS = 300.0
"""A busy machine with two cores has taken two minutes."""
DAG_PARSE_TIMEOUT_SECONDS = 60.0
DISPATCHER_STOP_TIMEOUT_SECONDS = 10.0
TASK_STOP_TIMEOUT_SECONDS = 10.0


class Stack:
    """One copy of the stack. `report` receives progress, one line at a time."""

    def __init__(self, report: Report, paths: Paths | None = None) -> None:
        self.paths = paths or Paths.from_environment()
        self.report = report
        self.paths.create_folders()

    @cached_property
    def secrets(self) -> Secrets:
        """This copy's secrets, generated at first use."""
        return load_or_create(self.paths.secrets_file)

    @cached_property
    def cluster(self) -> Cluster:
        """This copy's PostgreSQL."""
        return Cluster(self.paths, self.secrets)

    @cached_property
    def supervisor(self) -> Supervisor:
        """This copy's supervisord."""
        return Supervisor(self.paths, self.cluster)

    def variables(self) -> dict[str, str]:
        """This copy's environment variables."""
        return build_environment(self.paths, self.secrets, self.cluster)

    def subprocess_environment(self, metadata_database: str = "airflow") -> dict[str, str]:
        """This process's environment, overridden by this copy's variables."""
        return {**os.environ, **build_environment(self.paths, self.secrets, self.cluster, metadata_database)}

    def health_checks(self) -> list[health.Check]:
        """The health of every component."""
        return health.run_checks(self.paths, self.secrets, self.cluster, self.supervisor.states())

    def is_running(self, names: Sequence[str] = SERVICES) -> bool:
        """Whether these services run, on this BACKLINE_PORT."""
        states = self.supervisor.states()
        self._check_same_port(states)
        return all(name in states and states[name].state == "RUNNING" for name in names)

    def setup(self) -> None:
        """Create databases, pools and secrets and apply migrations; safe to repeat, and quick if nothing is missing."""
        with self.paths.lock(self.report):
            self._run_setup()

    @contextlib.contextmanager
    def temporary_setup(self) -> Iterator[None]:
        """Set up, and at the end stop what that started; services that ran before or were started since stay up."""
        before = self._running_services()
        self.setup()
        started = self._running_services()
        try:
            yield
        finally:
            if not before and self._running_services() == started:
                self.down()

    def start_base_services(self) -> None:
        """Start what the Airflow CLI needs, after set-up if necessary."""
        if self._is_set_up() and self.is_running(BASE_SERVICES):
            migrate(self.cluster.dsn("backline"))
            return
        with self.paths.lock(self.report):
            self._run_setup()
            self._start_service("mail")
            self._wait_for_service("mail", self._is_mail_ready)

    def up(self) -> bool:
        """Start everything and wait until it is ready; False if it already ran."""
        settings().check_job_sections()
        with self.paths.lock(self.report):
            fresh = not (self._is_set_up() and self.is_running())
            if fresh:
                self._run_setup()
                for name in SERVICES[1:]:
                    self._start_service(name)
            else:
                migrate(self.cluster.dsn("backline"))
            self._wait_ready(fresh=fresh)
        return fresh

    def down(self) -> bool:
        """Stop everything, dispatchers first; False if nothing ran."""
        with self.paths.lock(self.report):
            states = self.supervisor.states()
            if states:
                self._stop_services(states)
                # Before supervisord ends, as it reaps processes that were reparented to it.
                terminate_processes(self.supervisor.stack_id, exclude={self.supervisor.pid()})
                self.supervisor.shut_down_daemon()
            ended = terminate_processes(self.supervisor.stack_id, grace=30.0)
            shutil.rmtree(self.cluster.runtime_folder, ignore_errors=True)
            self.cluster.remove_socket_folder()
        return bool(states) or ended > 0

    def restart_service(self, name: str) -> None:
        """Restart one service."""
        if name not in SERVICES:
            raise Misconfigured(f"no service {name!r}; use one of {', '.join(SERVICES)}")
        with self.paths.lock(self.report):
            if not self.supervisor.states():
                raise Misconfigured("the stack is not running; run ./backline up")
            self.report(f"restarting {name}")
            self.supervisor.stop(name)
            self.supervisor.start(name)
            self._wait_for_service(name, lambda: self.supervisor.states()[name].state == "RUNNING")

    # -- setting up

    def _setup_fingerprint(self) -> dict[str, str]:
        current = settings()
        pools = repr(sorted((name, lane.max_dispatchers) for name, lane in current.lanes.items())) + repr(
            (current.direct_pools, current.job_pools)
        )
        roles = self.cluster.url_credentials("backline") + self.cluster.url_credentials("airflow")
        return {
            "airflow": importlib.metadata.version("apache-airflow-core"),
            "roles": hashlib.sha256(roles.encode()).hexdigest(),  # so that changed passwords are set
            "pools": hashlib.sha256(pools.encode()).hexdigest(),
            "instance": self.secrets.instance_id,
            "manual_run_database": MANUAL_RUN_DATABASE,
        }

    def _running_services(self) -> set[str]:
        return {name for name, state in self.supervisor.states().items() if state.is_running}

    def _is_set_up(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            done = json.loads(self.paths.setup_state_file.read_text(encoding="utf-8"))
            return {key: done.get(key) for key in self._setup_fingerprint()} == self._setup_fingerprint()
        return False

    def _run_setup(self) -> None:
        settings().check_job_sections()
        write_airflow_passwords(self.paths.password_file, self.secrets)
        self._check_same_port(self.supervisor.states())
        if self.supervisor.pid() is None:
            self._launch_supervisor()
        self._start_service("postgres")
        self.cluster.wait_ready()
        identity = self.cluster.system_identifier()
        if not self._is_set_up() or identity != self._recorded_database_identity():
            self.cluster.ensure_databases()
        for name in (*migrate(self.cluster.dsn("backline")), *update_schema(self.cluster.dsn("backline"))):
            self.report(f"applied migration {name}")
        if self._is_set_up() and identity == self._recorded_database_identity():
            return
        self.report("preparing Airflow's database (about 20 seconds the first time)")
        self._prepare_airflow("airflow")
        if not self.cluster.create_manual_run_database():
            self._prepare_airflow(MANUAL_RUN_DATABASE)
        self.paths.setup_state_file.write_text(
            json.dumps({**self._setup_fingerprint(), "database": identity}) + "\n", encoding="utf-8"
        )

    def _recorded_database_identity(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(self.paths.setup_state_file.read_text(encoding="utf-8")).get("database"))
        return ""

    def _prepare_airflow(self, database: str) -> None:
        for module in (("airflow", "db", "migrate"), ("backline.airflow.defaults",)):
            self._run_module(*module, environment=self.subprocess_environment(database))

    def _run_module(self, *arguments: str, environment: Mapping[str, str]) -> None:
        log = self.paths.log_folder / "setup.log"
        with log.open("ab") as output:
            done = subprocess.run(  # noqa: S603
                [sys.executable, "-P", "-m", *arguments],
                check=False,
                env=environment,
                cwd=self.paths.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            raise UnknownFailure(f"`{' '.join(arguments)}` failed with exit code {done.returncode}; see {log}")

    # -- starting

    def _launch_supervisor(self) -> None:
        ended = terminate_processes(self.supervisor.stack_id, grace=30.0)
        if ended:
            self.report(f"ended {ended} processes left by a supervisor that is gone")
        self.cluster.initialize()
        self.supervisor.start_daemon(self.subprocess_environment())

    def _start_service(self, name: str) -> None:
        states = self.supervisor.states()
        if name in states and states[name].is_running:
            return
        self._check_ports_free(name)
        self.report(f"starting {name}")
        self.supervisor.start(name)

    def _check_ports_free(self, name: str) -> None:
        wanted = {
            "mail": (self.paths.smtp_port, self.paths.mail_web_port),
            "api-server": (self.paths.port,),
        }
        for port in wanted.get(name, ()):
            if not _is_port_free(port):
                raise Misconfigured(
                    f"port {port} of {name} is used by another program; stop it, or change BACKLINE_PORT "
                    f"(now {self.paths.port}; that port and the next two are used)"
                )

    def _check_same_port(self, states: dict[str, ServiceState]) -> None:
        if states and (port := self.supervisor.configured_port()) != self.paths.port:
            raise Misconfigured(
                f"the stack in {self.paths.home} runs with BACKLINE_PORT={port}, not {self.paths.port}; "
                f"use that port, run ./backline down first, or set another BACKLINE_HOME"
            )

    def _wait_ready(self, *, fresh: bool) -> None:
        api = health.LocalAirflowClient(self.paths, self.secrets)
        self._wait_for_service("mail", self._is_mail_ready, quiet=not fresh)
        self._wait_for_service("api-server", lambda: bool(api.health()), quiet=not fresh)
        for name in health.AIRFLOW_HEALTH_KEYS:
            self._wait_for_service(name, partial(self._has_fresh_heartbeat, name, api), quiet=not fresh)
        if fresh:
            self._wait_for_dags(api)

    def _is_mail_ready(self) -> bool:
        return health.is_port_open(self.paths.smtp_port) and health.is_port_open(self.paths.mail_web_port)

    def _has_fresh_heartbeat(self, name: str, api: health.LocalAirflowClient) -> bool:
        service = self.supervisor.states()[name]
        return health.is_airflow_ready(service, api.health(), time.time())

    def _wait_for_dags(self, api: health.LocalAirflowClient) -> None:
        since = time.time() - self.supervisor.states()["dag-processor"].uptime
        deadline = time.monotonic() + DAG_PARSE_TIMEOUT_SECONDS
        while problem := self._missing_dags_message(api, since):
            if time.monotonic() > deadline:
                # A file may define no DAG; `health` reports import errors, so this is no reason to fail.
                self.report(problem)
                return
            time.sleep(0.2)
        self.report("DAG files ready")

    def _missing_dags_message(self, api: health.LocalAirflowClient, since: float) -> str:
        """Describe the DAG files that are not ready; empty if all are."""
        try:
            missing = health.unparsed_dag_files(api, self.paths.root / "dags", since)
        except BacklineError as exc:  # the first response can be slow while everything starts
            return f"cannot list the parsed DAG files: {exc}"
        return f"no DAG from: {', '.join(sorted(missing))}" if missing else ""

    def _wait_for_service(self, name: str, ready: Callable[[], bool], *, quiet: bool = False) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        problem = "no response"
        while time.monotonic() < deadline:
            try:
                if ready():
                    if not quiet:
                        self.report(f"{name} ready")
                    return
            except BacklineError as exc:
                problem = str(exc)
            time.sleep(0.1)
        raise UnknownFailure(
            f"{name} was not ready within {READY_TIMEOUT_SECONDS:.0f} s ({problem}); see ./backline logs {name}"
        )

    # -- stopping

    def _stop_services(self, states: dict[str, ServiceState]) -> None:
        self.report("stopping dispatchers")
        self.supervisor.stop("triggerer")  # without lane triggers nothing starts a dispatcher
        if states["postgres"].state == "RUNNING" and self._is_set_up():
            self._stop_dispatchers()
        self.report("stopping tasks and services")
        self.supervisor.request_stop("scheduler")  # it waits for running tasks
        if not self.supervisor.wait_stopped("scheduler", timeout=TASK_STOP_TIMEOUT_SECONDS):
            services = {state.pid for state in self.supervisor.states().values()}
            terminate_tasks(self.supervisor.stack_id, services)
            self.supervisor.wait_stopped("scheduler", timeout=30.0)
        terminate_processes(self.supervisor.stack_id, "scheduler")
        self.supervisor.stop(*(name for name in SERVICES if name not in {"postgres", "scheduler", "triggerer"}))
        self.supervisor.stop("postgres")

    def _stop_dispatchers(self) -> None:
        from backline.outbox.maintenance import stop_dispatchers

        try:
            stop_dispatchers(self.cluster.dsn("backline"), timeout=DISPATCHER_STOP_TIMEOUT_SECONDS)
        except BacklineError as exc:
            self.report(f"cannot stop dispatchers ({exc}); their messages are rescued at the next start")


def _is_port_free(port: int) -> bool:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "")):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
