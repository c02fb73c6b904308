"""Shared by all benches: folders, ports, processes, databases, receivers, and the order in which benches run."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import psycopg
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from psycopg.sql import SQL, Identifier

from backline.db.migrate import migrate
from backline.errors import Misconfigured, UnknownFailure
from backline.settings import ROOT
from bench.gateway_sink import GatewaySink, nginx_config
from bench.peers.emails import TEMPLATE_FOLDER_VARIABLE, build_fast, recipient, template_context
from bench.report import BenchResult, write_report
from template_css import InliningLoader
from testkit import processes
from testkit.processes import LOOPBACK, exclusive_folder, free_port, wait_for
from testkit.stack_copy import StackCopy
from testkit.tools import Tools

T = TypeVar("T")

BENCHES = ("latency", "throughput", "channels", "priority", "enqueue", "growth", "parse", "libraries", "idle")
"""In the order in which they run; each is a module of this package with `run(bench: BenchRun) -> BenchResult`."""
PORT_OFFSET = 50
TEMPLATE_NAME = "bench_order"


class BenchRun:
    """One run of benches. A context manager: at its end everything that it started is stopped and removed."""

    def __init__(self, home: Path, port: int, report: Callable[[str], None], *, short: bool = False) -> None:
        """`home` and `port` are BACKLINE_HOME and BACKLINE_PORT; `report` receives progress, one line at a time."""
        self.folder = home / "bench"
        self.short = short
        self.report = report
        self.tools = Tools(self.folder, report)
        self._port = port + PORT_OFFSET
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self._exit.enter_context(exclusive_folder(self.folder, "bench"))
        self._exit.callback(self._clean_up)
        self._clean_up()
        (self.folder / "logs").mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def full_or_short(self, full: T, short: T) -> T:
        """The size of something in a full run, and in the short form."""
        return short if self.short else full

    # --- the stack and its PostgreSQL ---------------------------------------------------------------

    @cached_property
    def _stack_copy(self) -> StackCopy:
        return StackCopy(self.folder, self._port, self.report, variables=self._settings(), customize=self._add_template)

    @property
    def template_folder(self) -> Path:
        """The email's template with inlined styles, for the peers."""
        return self.folder / "template"

    def _settings(self) -> dict[str, str]:
        """Connections of all channels to the receivers."""
        page = f"http://{LOOPBACK}:{self.http_port}"
        connections: dict[str, dict[str, object]] = {
            "email": {
                "conn_type": "smtp", "host": LOOPBACK, "port": self.smtp_port,
                "extra": {"disable_ssl": True, "disable_tls": True},
            },
            "sms": {"conn_type": "http", "host": f"{page}/sms", "login": "ACbench", "password": "bench"},
            "push": {
                "conn_type": "http", "host": f"{page}/push",
                "extra": {"service_account": _service_account(f"{page}/push/token")},
            },
        }  # fmt: skip
        return {
            **{f"BACKLINE__{channel.upper()}__CONNECTION": f"{channel}_bench" for channel in connections},
            **{f"AIRFLOW_CONN_{channel.upper()}_BENCH": json.dumps(each) for channel, each in connections.items()},
            "BACKLINE__WEBHOOKS__REQUIRE_HTTPS": "false",
            "BACKLINE__WEBHOOKS__ALLOWED_ADDRESSES": json.dumps([f"{LOOPBACK}:{self.http_port}"]),
        }

    def _add_template(self, project: Path) -> None:
        folder = project / "include" / "templates" / "email"
        shutil.copytree(ROOT / "bench" / "template", folder / "en" / TEMPLATE_NAME)
        loader = InliningLoader(folder)
        self.template_folder.mkdir(exist_ok=True)
        for name in ("subject.txt", "body.txt", "body.html"):
            source, _, _ = loader.get_source(None, f"en/{TEMPLATE_NAME}/{name}")  # type: ignore[arg-type]
            (self.template_folder / name).write_text(source, encoding="utf-8")

    def _clean_up(self) -> None:
        self._stack_copy.remove()
        shutil.rmtree(self.template_folder, ignore_errors=True)

    def full_stack(self) -> StackCopy:
        """The whole stack, started and ready."""
        self._stack_copy.up()
        return self._stack_copy

    def database_server(self) -> StackCopy:
        """The stack's PostgreSQL without Airflow."""
        self._stack_copy.start_database()
        return self._stack_copy

    @contextmanager
    def database(self, name: str, *, migrated: bool = False) -> Iterator[str]:
        """The DSN of a new database on the running server, dropped at the end; `migrated`: with Backline's schema."""
        cluster = self._stack_copy.stack.cluster
        unique = f"bench_{name}_{secrets.token_hex(4)}"
        with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as admin:
            admin.execute(SQL("CREATE DATABASE {} OWNER backline").format(Identifier(unique)))
            try:
                dsn = cluster.dsn("backline", unique)
                if migrated:
                    migrate(dsn)
                yield dsn
            finally:
                admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(unique)))

    # --- processes ----------------------------------------------------------------------------------

    @contextmanager
    def managed_process(
        self, command: Sequence[str | Path], *, log: str, environment: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a process in its own group, its output in `logs/LOG.log`; ends the group on exit."""
        with processes.managed_process(command, self.log_file(log), environment) as child:
            yield child

    def log_file(self, name: str) -> Path:
        """The log file of that name."""
        return self.folder / "logs" / f"{name}.log"

    def peer_command(self, *arguments: str | Path) -> list[str]:
        """The command that runs `python ARGUMENTS` in the peers' venv."""
        return [str(part) for part in (self.tools.peer_python(), *arguments)]

    def peer_environment(self, **more: str) -> dict[str, str]:
        """The environment variables of a peer's process."""
        return {
            "PYTHONPATH": str(ROOT),
            TEMPLATE_FOLDER_VARIABLE: str(self.template_folder),
            "BENCH_SMTP_PORT": str(self.smtp_port),
            **more,
        }

    def mean_email_size(self) -> int:
        """The mean size of an email in bytes; needs the template of the stack's copy."""
        os.environ[TEMPLATE_FOLDER_VARIABLE] = str(self.template_folder)
        sizes = [len(build_fast(recipient(number), template_context(number))) for number in range(100)]
        return sum(sizes) // len(sizes)

    def run_peer(self, *arguments: str | Path, log: str, environment: Mapping[str, str], seconds: float = 240) -> None:
        """Run a peer's script to its end; UnknownFailure if it fails or takes too long."""
        with self.managed_process(self.peer_command(*arguments), log=log, environment=environment) as child:
            try:
                code = child.wait(seconds)
            except subprocess.TimeoutExpired:
                raise UnknownFailure(f"{log} took longer than {seconds:.0f} s; see {self.log_file(log)}") from None
        if code:
            raise UnknownFailure(f"{log} failed with exit code {code}; see {self.log_file(log)}")

    @contextmanager
    def celery_worker(self, environment: Mapping[str, str]) -> Iterator[None]:
        """Run Celery's worker with a process per core; see bench.peers.celery_app for its environment."""
        command = self.peer_command("-m", "celery", "-A", "bench.peers.celery_app", "worker", "--pool", "prefork",
                            "--concurrency", str(os.cpu_count() or 2), "--without-gossip", "--without-mingle",
                            "--without-heartbeat", "--loglevel", "WARNING")  # fmt: skip
        with self.managed_process(command, log="celery-worker", environment=environment):
            yield

    # --- receivers ----------------------------------------------------------------------------------

    @cached_property
    def smtp_port(self) -> int:
        """The port to which all sides send email."""
        return free_port()

    @contextmanager
    def smtp_sink(self) -> Iterator[SmtpSink]:
        """Run postfix's smtp-sink on `smtp_port`."""
        program = self.tools.smtp_sink()
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = [str(program.path), "-c", *user, f"{LOOPBACK}:{self.smtp_port}", "1000"]
        with self.managed_process(command, log="smtp-sink", environment=program.environment) as child:
            self.wait_for_port(self.smtp_port, child, "smtp-sink")
            yield SmtpSink(self.log_file("smtp-sink"))

    @cached_property
    def http_port(self) -> int:
        """The port for SMS, push messages and webhooks."""
        return free_port()

    @contextmanager
    def gateway_sink(self) -> Iterator[GatewaySink]:
        """Run nginx on `http_port`."""
        program, folder = self.tools.nginx(), self.folder / "nginx"
        folder.mkdir(exist_ok=True)
        (folder / "nginx.conf").write_text(nginx_config(folder, self.http_port), encoding="utf-8")
        user = ["-g", "user root;"] if os.geteuid() == 0 else []  # its default account may not exist
        command = [str(program.path), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr", *user]
        try:
            with self.managed_process(command, log="nginx", environment=program.environment) as child:
                self.wait_for_port(self.http_port, child, "nginx")
                yield GatewaySink(self.http_port)
        finally:
            shutil.rmtree(folder)

    @contextmanager
    def redis(self) -> Iterator[str]:
        """The URL of a new Redis server without persistence."""
        program, port = self.tools.redis(), free_port()
        command = [str(program.path), "--port", str(port), "--bind", LOOPBACK, "--save", "", "--appendonly", "no",
                   "--dir", str(self.folder)]  # fmt: skip
        with self.managed_process(command, log="redis", environment=program.environment) as child:
            self.wait_for_port(port, child, "redis")
            yield f"redis://{LOOPBACK}:{port}/0"

    def wait_for_port(self, port: int, child: subprocess.Popen[bytes], log: str) -> None:
        """Wait until the process listens on the port; UnknownFailure if it has ended."""
        processes.wait_for_port(port, child, log, self.log_file(log))


class SmtpSink:
    """smtp-sink's counters, which end each line of its log: `sess=... quit=... mesg=...`."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def count(self) -> int:
        """Messages accepted so far."""
        with self._log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 200))
            lines = [part for part in file.read().split(b"\r") if b"mesg=" in part]
        return int(lines[-1].rpartition(b"mesg=")[2]) if lines else 0

    def expect(self, before: int, count: int) -> None:
        """Check that exactly `count` emails arrived since the count `before`, after a short wait; else UnknownFailure."""
        wait_for(lambda: self.count() >= before + count, f"{count:,} emails at the sink", 10)
        if (arrived := self.count() - before) != count:
            raise UnknownFailure(f"{arrived:,} emails arrived, {count:,} were sent")


def _service_account(token_url: str) -> dict[str, str]:
    key = generate_private_key(65537, 2048)
    return {
        "type": "service_account",
        "project_id": "bench",
        "client_email": "bench@localhost",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "token_uri": token_url,
    }


def run(bench: BenchRun, names: Sequence[str], json_file: Path | None, show: Callable[[str], None]) -> None:
    """Run benches, all if none is named, and show the last line of each."""
    if unknown := [name for name in names if name not in BENCHES]:
        raise Misconfigured(f"no bench {unknown[0]!r}; use one of {', '.join(BENCHES)}")
    results: list[BenchResult] = []
    for name in names or BENCHES:
        module = importlib.import_module(f"bench.{name}")
        result: BenchResult = module.run(bench)
        results.append(result)
        show(result.summary_line())
        if json_file is not None:
            write_report(json_file, results, peer_versions(), short=bench.short)


def peer_versions() -> dict[str, str]:
    """The peers' versions in the lock file."""
    peers = ("celery", "procrastinate", "pgqueuer")
    lines = (ROOT / "bench" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split()[0].split("==") for line in lines if "==" in line and not line.startswith((" ", "#")))
    return {name: version for name, version in pins if name in peers}
