"""What all benches share: folders, ports, processes, databases, the sink, and the order in which benches run."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import psycopg
from psycopg.sql import SQL, Identifier

from backline.db.migrate import migrate
from backline.errors import Misconfigured, UnknownFailure
from backline.settings import ROOT
from bench.peers.letters import FOLDER_VARIABLE, context, fast_built, recipient
from bench.report import Figures, write
from bench.stack_copy import StackCopy, wait_for
from bench.tools import Tools

T = TypeVar("T")

BENCHES = ("latency", "throughput", "priority", "enqueue", "growth", "parse", "idle")
"""In the order of running; each is a module of this package with `run(bench: Bench) -> Figures`."""
PORT_OFFSET = 50
LOOPBACK = "127.0.0.1"
ENDING_SECONDS = 10.0


class Bench:
    """One run of benches. A context manager: at its end everything that was started is ended and removed."""

    def __init__(self, home: Path, port: int, report: Callable[[str], None], *, short: bool = False) -> None:
        """`home` and `port` are BACKLINE_HOME and BACKLINE_PORT; `report` is told what goes on, a line at a time."""
        self.folder = home / "bench"
        self.short = short
        self.report = report
        self.tools = Tools(self.folder, report)
        self._port = port + PORT_OFFSET
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._exit.callback(os.close, self._lock())
        self._exit.callback(self._copy.remove)
        self._copy.remove()
        (self.folder / "logs").mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def _lock(self) -> int:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Misconfigured(f"another bench runs in {self.folder}; wait for it, or set BACKLINE_HOME") from None
        return descriptor

    def pick(self, full: T, short: T) -> T:
        """The size of something in a full run, and in the short form."""
        return short if self.short else full

    # --- the stack and its PostgreSQL ---------------------------------------------------------------

    @cached_property
    def _copy(self) -> StackCopy:
        return StackCopy(self.folder, self._port, self.smtp_port, self.report)

    def stack(self) -> StackCopy:
        """The whole stack, running and ready."""
        self._copy.up()
        return self._copy

    def server(self) -> StackCopy:
        """The stack's PostgreSQL without Airflow beside it."""
        self._copy.up_database()
        return self._copy

    @contextmanager
    def database(self, name: str, *, migrated: bool = False) -> Iterator[str]:
        """The DSN of a new database on the server that runs now, dropped at the end; `migrated`: with the outbox."""
        cluster = self._copy.stack.cluster
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
    def process(
        self, command: Sequence[str | Path], *, log: str, environment: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A process in a group of its own, what it says in `logs/LOG.log`; the group is ended on leaving."""
        with self.log(log).open("wb") as output:
            child = subprocess.Popen(
                [str(part) for part in command],
                env={**os.environ, **(environment or {})},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield child
        finally:
            _end(child)

    def log(self, name: str) -> Path:
        """Where the process of that log name writes."""
        return self.folder / "logs" / f"{name}.log"

    def peer(self, *arguments: str | Path) -> list[str]:
        """The command that runs `python ARGUMENTS` among the peers."""
        return [str(part) for part in (self.tools.peer_python(), *arguments)]

    def peer_environment(self, **more: str) -> dict[str, str]:
        """What a peer's process needs to find the letter and its code, and more."""
        return {
            "PYTHONPATH": str(ROOT),
            FOLDER_VARIABLE: str(self._copy.template_folder),
            "BENCH_SMTP_PORT": str(self.smtp_port),
            **more,
        }

    def letter_size(self) -> int:
        """Mean bytes of a letter, for those who send others of that size; call it while the stack's copy is there."""
        os.environ[FOLDER_VARIABLE] = str(self._copy.template_folder)
        sizes = [len(fast_built(recipient(number), context(number))) for number in range(100)]
        return sum(sizes) // len(sizes)

    def run_peer(self, *arguments: str | Path, log: str, environment: Mapping[str, str], seconds: float = 240) -> None:
        """Run a peer's script to its end; UnknownFailure if it fails or takes too long."""
        with self.process(self.peer(*arguments), log=log, environment=environment) as child:
            try:
                code = child.wait(seconds)
            except subprocess.TimeoutExpired:
                raise UnknownFailure(f"{log} took longer than {seconds:.0f} s; see {self.log(log)}") from None
        if code:
            raise UnknownFailure(f"{log} failed with exit code {code}; see {self.log(log)}")

    @contextmanager
    def celery_worker(self, environment: Mapping[str, str]) -> Iterator[None]:
        """Celery's worker, a process for each core; see `bench.peers.celery_app` for its environment."""
        command = self.peer("-m", "celery", "-A", "bench.peers.celery_app", "worker", "--pool", "prefork",
                            "--concurrency", str(os.cpu_count() or 2), "--without-gossip", "--without-mingle",
                            "--without-heartbeat", "--loglevel", "WARNING")  # fmt: skip
        with self.process(command, log="celery-worker", environment=environment):
            yield

    # --- the far side -------------------------------------------------------------------------------

    @cached_property
    def smtp_port(self) -> int:
        """The port to which all sides send."""
        return free_port()

    @contextmanager
    def sink(self) -> Iterator[Sink]:
        """postfix's smtp-sink on `smtp_port`."""
        program = self.tools.smtp_sink()
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = [str(program.path), "-c", *user, f"{LOOPBACK}:{self.smtp_port}", "1000"]
        with self.process(command, log="smtp-sink", environment=program.environment) as child:
            self.wait_port(self.smtp_port, child, "smtp-sink")
            yield Sink(self.log("smtp-sink"))

    @contextmanager
    def redis(self) -> Iterator[str]:
        """The URL of a Redis of our own, without persistence."""
        program, port = self.tools.redis(), free_port()
        command = [str(program.path), "--port", str(port), "--bind", LOOPBACK, "--save", "", "--appendonly", "no",
                   "--dir", str(self.folder)]  # fmt: skip
        with self.process(command, log="redis", environment=program.environment) as child:
            self.wait_port(port, child, "redis")
            yield f"redis://{LOOPBACK}:{port}/0"

    def wait_port(self, port: int, child: subprocess.Popen[bytes], log: str) -> None:
        """Wait until something listens there; UnknownFailure if the process that should has ended."""

        def listens() -> bool:
            if child.poll() is not None:
                raise UnknownFailure(f"{log} ended at its start; see {self.log(log)}")
            with contextlib.suppress(OSError):
                socket.create_connection((LOOPBACK, port), timeout=1).close()
                return True
            return False

        wait_for(listens, f"{log} on port {port}", 20)


class Sink:
    """What smtp-sink has counted. Its counters end each line: `sess=... quit=... mesg=...`."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def count(self) -> int:
        """Messages accepted so far."""
        with self._log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 200))
            lines = [part for part in file.read().split(b"\r") if b"mesg=" in part]
        return int(lines[-1].rpartition(b"mesg=")[2]) if lines else 0

    def require(self, before: int, count: int) -> None:
        """Exactly so many more than `before` must have come, now or in a moment; else UnknownFailure."""
        wait_for(lambda: self.count() >= before + count, f"{count:,} letters at the sink", 10)
        if (arrived := self.count() - before) != count:
            raise UnknownFailure(f"{arrived:,} letters arrived, {count:,} were sent")


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def run(bench: Bench, names: Sequence[str], json_file: Path | None, show: Callable[[str], None]) -> None:
    """Run those benches, all if none is named, and show each one's last line."""
    if unknown := [name for name in names if name not in BENCHES]:
        raise Misconfigured(f"no bench {unknown[0]!r}; use one of {', '.join(BENCHES)}")
    found: list[Figures] = []
    for name in names or BENCHES:
        module = importlib.import_module(f"bench.{name}")
        figures: Figures = module.run(bench)
        found.append(figures)
        show(figures.line())
        if json_file is not None:
            write(json_file, found, peer_versions(), short=bench.short)


def peer_versions() -> dict[str, str]:
    """What the peers are locked at."""
    wanted = ("celery", "procrastinate", "pgqueuer")
    lines = (ROOT / "bench" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split()[0].split("==") for line in lines if "==" in line and not line.startswith((" ", "#")))
    return {name: version for name, version in pins if name in wanted}


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process politely, so that it finishes what it has in hand, and then what is left of its group."""
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(ENDING_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
