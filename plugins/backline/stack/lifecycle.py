"""Setting up, starting and stopping one copy of the stack."""

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
from backline.errors import BacklineError, Misconfigured, NetworkFailure, UnknownFailure
from backline.settings import settings
from backline.stack import health
from backline.stack.environment import exports
from backline.stack.paths import Paths
from backline.stack.postgres import BY_HAND, Cluster
from backline.stack.processes import end_leftovers, terminate_tasks
from backline.stack.secrets import Secrets, load_or_create, write_passwords
from backline.stack.supervise import SERVICES, ServiceState, Supervisor

Report = Callable[[str], None]
BASIC_SERVICES = ("postgres", "mail")
"""What the Airflow CLI needs."""
READY_SECONDS = 300.0
"""Ample: a crowded machine of two cores has taken two minutes."""
DAG_SECONDS = 60.0
DISPATCHER_SECONDS = 10.0
TASK_SECONDS = 10.0


class Stack:
    """One copy of the stack. `report` is told what goes on, a line at a time."""

    def __init__(self, report: Report, paths: Paths | None = None) -> None:
        self.paths = paths or Paths.from_environment()
        self.report = report
        self.paths.prepare()

    @cached_property
    def secrets(self) -> Secrets:
        """This copy's secrets, made at their first use."""
        return load_or_create(self.paths.secrets_file)

    @cached_property
    def cluster(self) -> Cluster:
        """This copy's PostgreSQL."""
        return Cluster(self.paths, self.secrets)

    @cached_property
    def supervisor(self) -> Supervisor:
        """This copy's supervisord."""
        return Supervisor(self.paths, self.cluster)

    def exports(self) -> dict[str, str]:
        """The variables of this copy."""
        return exports(self.paths, self.secrets, self.cluster)

    def environment(self, metadata: str = "airflow") -> dict[str, str]:
        """The caller's environment with this copy's variables over it; `metadata` is the name of Airflow's database."""
        return {**os.environ, **exports(self.paths, self.secrets, self.cluster, metadata)}

    def checks(self) -> list[health.Check]:
        """Every component's health."""
        return health.checks(self.paths, self.secrets, self.cluster, self.supervisor.states())

    def running(self, names: Sequence[str] = SERVICES) -> bool:
        """Whether all those services are up, on this BACKLINE_PORT."""
        states = self.supervisor.states()
        self._refuse_other_port(states)
        return all(name in states and states[name].state == "RUNNING" for name in names)

    def setup(self) -> None:
        """Databases, migrations, pools, secrets; safe to repeat, and quick when there is nothing to do."""
        with self.paths.locked(self.report):
            self._setup()

    @contextlib.contextmanager
    def set_up_meanwhile(self) -> Iterator[None]:
        """Set up, and at the end stop what that started; what was up before, or others have started since, stays up."""
        before = self._running_services()
        self.setup()
        started = self._running_services()
        try:
            yield
        finally:
            if not before and self._running_services() == started:
                self.down()

    def start_basics(self) -> None:
        """Bring up what the Airflow CLI needs, with set-up if it was never done."""
        if self._is_set_up() and self.running(BASIC_SERVICES):
            migrate(self.cluster.dsn("backline"))
            return
        with self.paths.locked(self.report):
            self._setup()
            self._start("mail")
            self._wait("mail", self._mail_answers)

    def up(self) -> bool:
        """Start everything and wait until it is ready; False if it was up already."""
        with self.paths.locked(self.report):
            fresh = not (self._is_set_up() and self.running())
            if fresh:
                self._setup()
                for name in SERVICES[1:]:
                    self._start(name)
            else:
                migrate(self.cluster.dsn("backline"))
            self._wait_ready(fresh=fresh)
        return fresh

    def down(self) -> bool:
        """Stop everything, dispatchers first; False if nothing ran."""
        with self.paths.locked(self.report):
            states = self.supervisor.states()
            if states:
                self._stop_services(states)
                # Now, while supervisord is there to wait for what was reparented to it.
                end_leftovers(self.supervisor.stack_id, spare={self.supervisor.pid()})
                self.supervisor.shutdown()
            ended = end_leftovers(self.supervisor.stack_id, grace=30.0)
            shutil.rmtree(self.cluster.runtime, ignore_errors=True)
            self.cluster.remove_sockets()
        return bool(states) or ended > 0

    def restart_service(self, name: str) -> None:
        """Restart one service."""
        if name not in SERVICES:
            raise Misconfigured(f"no service {name!r}; use one of {', '.join(SERVICES)}")
        with self.paths.locked(self.report):
            if not self.supervisor.states():
                raise Misconfigured("the stack is not running; run ./backline up")
            self.report(f"restarting {name}")
            self.supervisor.stop(name)
            self.supervisor.start(name)
            self._wait(name, lambda: self.supervisor.states()[name].state == "RUNNING")

    # -- setting up

    def _stamp(self) -> dict[str, str]:
        current = settings()
        pools = repr(sorted((name, lane.dispatchers) for name, lane in current.lanes.items())) + repr(
            (current.direct_pools, current.job_pools)
        )
        return {
            "airflow": importlib.metadata.version("apache-airflow-core"),
            "pools": hashlib.sha256(pools.encode()).hexdigest(),
            "instance": self.secrets.instance_id,
            "by_hand": BY_HAND,
        }

    def _running_services(self) -> set[str]:
        return {name for name, state in self.supervisor.states().items() if state.running}

    def _is_set_up(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            done = json.loads(self.paths.setup_stamp.read_text(encoding="utf-8"))
            return {key: done.get(key) for key in self._stamp()} == self._stamp()
        return False

    def _setup(self) -> None:
        write_passwords(self.paths.password_file, self.secrets)
        self._refuse_other_port(self.supervisor.states())
        if self.supervisor.pid() is None:
            self._launch()
        self._start("postgres")
        self.cluster.wait_ready()
        identity = self.cluster.identity()
        if not self._is_set_up() or identity != self._done_for():
            self.cluster.ensure_databases()
        for name in migrate(self.cluster.dsn("backline")):
            self.report(f"applied migration {name}")
        if self._is_set_up() and identity == self._done_for():
            return
        self.report("preparing Airflow's database (about 20 seconds the first time)")
        self._prepare_airflow("airflow")
        if not self.cluster.copy_airflow():
            self._prepare_airflow(BY_HAND)
        self.paths.setup_stamp.write_text(json.dumps({**self._stamp(), "database": identity}) + "\n", encoding="utf-8")

    def _done_for(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(self.paths.setup_stamp.read_text(encoding="utf-8")).get("database"))
        return ""

    def _prepare_airflow(self, metadata: str) -> None:
        for module in (("airflow", "db", "migrate"), ("backline.airflow.pools",)):
            self._run_module(*module, environment=self.environment(metadata))

    def _run_module(self, *arguments: str, environment: Mapping[str, str]) -> None:
        log = self.paths.logs / "setup.log"
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

    def _launch(self) -> None:
        ended = end_leftovers(self.supervisor.stack_id, grace=30.0)
        if ended:
            self.report(f"ended {ended} processes that were left without their supervisor")
        self.cluster.prepare()
        self.supervisor.launch(self.environment())

    def _start(self, name: str) -> None:
        states = self.supervisor.states()
        if name in states and states[name].running:
            return
        self._require_ports(name)
        self.report(f"starting {name}")
        self.supervisor.start(name)

    def _require_ports(self, name: str) -> None:
        wanted = {
            "mail": (self.paths.smtp_port, self.paths.mail_web_port),
            "api-server": (self.paths.port,),
            "scheduler": (self.paths.worker_log_port,),
            "triggerer": (self.paths.trigger_log_port,),
        }
        for port in wanted.get(name, ()):
            if not _is_free(port):
                raise Misconfigured(
                    f"port {port}, which {name} needs, is taken by another program; "
                    f"stop that, or set BACKLINE_PORT (now {self.paths.port}; it and the next four are used) to another number"
                )

    def _refuse_other_port(self, states: dict[str, ServiceState]) -> None:
        if states and (port := self.supervisor.running_port()) != self.paths.port:
            raise Misconfigured(
                f"the stack in {self.paths.home} runs with BACKLINE_PORT={port}, not {self.paths.port}; "
                f"use that, run ./backline down first, or give this one its own BACKLINE_HOME"
            )

    def _wait_ready(self, *, fresh: bool) -> None:
        api = health.AirflowApi(self.paths, self.secrets)
        self._wait("mail", self._mail_answers, quiet=not fresh)
        self._wait("api-server", lambda: bool(api.health()), quiet=not fresh)
        for name in health.AIRFLOW_PARTS:
            self._wait(name, partial(self._beats, name, api), quiet=not fresh)
        if fresh:
            self._wait_for_dags(api)

    def _mail_answers(self) -> bool:
        return health.answers(self.paths.smtp_port) and health.answers(self.paths.mail_web_port)

    def _beats(self, name: str, api: health.AirflowApi) -> bool:
        service = self.supervisor.states()[name]
        return health.is_airflow_ready(service, api.health(), time.time())

    def _wait_for_dags(self, api: health.AirflowApi) -> None:
        since = time.time() - self.supervisor.states()["dag-processor"].uptime
        deadline = time.monotonic() + DAG_SECONDS
        while problem := self._dags_lack(api, since):
            if time.monotonic() > deadline:
                # It may be that they define none: that is for `health` and their authors, not a reason to fail.
                self.report(problem)
                return
            time.sleep(0.2)
        self.report("DAG files ready")

    def _dags_lack(self, api: health.AirflowApi, since: float) -> str:
        """What is not ready yet, in words; empty when all is."""
        try:
            missing = health.unparsed(api, self.paths.root / "dags", since)
        except NetworkFailure as exc:  # its first answer can take long where many start at once
            return f"whether the DAG files are read is not known: {exc}"
        return f"no DAG from: {', '.join(sorted(missing))}" if missing else ""

    def _wait(self, name: str, ready: Callable[[], bool], *, quiet: bool = False) -> None:
        deadline = time.monotonic() + READY_SECONDS
        problem = "no answer"
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
            f"{name} was not ready within {READY_SECONDS:.0f} s ({problem}); see ./backline logs {name}"
        )

    # -- stopping

    def _stop_services(self, states: dict[str, ServiceState]) -> None:
        self.report("stopping dispatchers")
        self.supervisor.stop("triggerer")  # the doorbell: from here on nothing starts a dispatcher
        if states["postgres"].state == "RUNNING" and self._is_set_up():
            self._stop_dispatchers()
        self.report("stopping tasks and services")
        self.supervisor.request_stop("scheduler")  # it waits for running tasks
        if not self.supervisor.wait_stopped("scheduler", timeout=TASK_SECONDS):
            services = {state.pid for state in self.supervisor.states().values()}
            terminate_tasks(self.supervisor.stack_id, services)
            self.supervisor.wait_stopped("scheduler", timeout=30.0)
        end_leftovers(self.supervisor.stack_id, "scheduler")
        self.supervisor.stop(*(name for name in SERVICES if name not in {"postgres", "scheduler", "triggerer"}))
        self.supervisor.stop("postgres")

    def _stop_dispatchers(self) -> None:
        from backline.outbox.shutdown import stop_dispatchers

        try:
            stop_dispatchers(self.cluster.dsn("backline"), timeout=DISPATCHER_SECONDS)
        except BacklineError as exc:
            self.report(f"dispatchers could not be asked to stop ({exc}); their messages are rescued at the next start")


def _is_free(port: int) -> bool:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "")):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
