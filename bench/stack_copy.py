"""A copy of the project and of the stack, of the benches' own: as a team that forked Backline and added one template.

The benches measure this copy of the code, so that editing goes on beside them; it sends to the benches' SMTP port.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import DictRow, dict_row

from backline.db.connect import translated
from backline.errors import UnknownFailure
from backline.outbox.shutdown import stop_dispatchers
from backline.rendering.inlining import InliningLoader
from backline.settings import ROOT
from backline.stack.health import AirflowApi
from backline.stack.lifecycle import Stack
from backline.stack.paths import Paths
from backline.stack.postgres import SYSTEM_FOLDER

TEMPLATE = "bench_order"
COPIED = ("dags", "include", "plugins", "sandbox")
STOPPED_SECONDS = 60.0


class StackCopy:
    """Backline in `folder`, on `port` and the next four."""

    def __init__(self, folder: Path, port: int, smtp_port: int, report: Callable[[str], None]) -> None:
        self._report = report
        self.project = folder / "project"
        self.home = folder / "home"
        self.smtp_port = smtp_port
        self._state = ""
        self._stack: Stack | None = None
        self._paths = Paths(self.project, self.home, port)

    @property
    def stack(self) -> Stack:
        """Its parts: `cluster`, `supervisor`, `secrets`, `exports()`."""
        if self._stack is None:
            self._stack = Stack(self._report, self._paths)
        return self._stack

    @property
    def dsn(self) -> str:
        """The app database's."""
        return self.stack.cluster.dsn("backline")

    @property
    def template_folder(self) -> Path:
        """The letter's template, with the styles that Backline writes into it: for the peers."""
        return self.home.parent / "template"

    def up(self) -> None:
        """Everything runs and is ready."""
        if self._state != "up":
            self._report("starting a copy of the stack (about a minute)")
            self._prepare()
            self._backline("up")
            self._state = "up"

    def up_database(self) -> None:
        """PostgreSQL and the mail catcher run, and nothing else of the stack."""
        if self._state == "up":
            self._backline("down")
        if self._state != "database":
            self._report("starting a PostgreSQL server")
            self._prepare()
            self._backline("setup")
            self._state = "database"

    def remove(self) -> None:
        """Stop everything and take its folders away, also those of a run that was killed."""
        if not self.home.exists():
            return
        if self.project.exists():
            self._report("stopping the copy of the stack")
            self._backline("down", check=False)
        if self._paths.secrets_file.exists():
            shutil.rmtree(SYSTEM_FOLDER / self.stack.secrets.instance_id, ignore_errors=True)
        for folder in (self.home, self.project, self.template_folder):
            shutil.rmtree(folder, ignore_errors=True)
        self._state, self._stack = "", None

    def connect(self) -> psycopg.Connection[DictRow]:
        """A connection of an app's own, in autocommit."""
        with translated():
            return psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row)

    def stop_dispatchers(self) -> None:
        """End all dispatchers and wait until Airflow sees no run of theirs: what comes next starts cold."""
        stop_dispatchers(self.dsn, timeout=STOPPED_SECONDS)
        api = AirflowApi(self._paths, self.stack.secrets)
        wait_for(
            lambda: not any(dag.startswith("dispatch_") for dag in api.dags_with_unfinished_runs(datetime.now(UTC))),
            "the end of all dispatchers",
            STOPPED_SECONDS,
            look_seconds=0.2,
        )

    def _prepare(self) -> None:
        if self.project.exists():
            return
        for name in COPIED:
            shutil.copytree(ROOT / name, self.project / name)
        folder = self.project / "include" / "templates" / "email"
        shutil.copytree(ROOT / "bench" / "template", folder / "en" / TEMPLATE)
        loader = InliningLoader(folder)
        self.template_folder.mkdir(exist_ok=True)
        for name in ("subject.txt", "body.txt", "body.html"):
            source, _, _ = loader.get_source(None, f"en/{TEMPLATE}/{name}")  # type: ignore[arg-type]
            (self.template_folder / name).write_text(source, encoding="utf-8")

    def _backline(self, *arguments: str, check: bool = True) -> None:
        foreign = ("BACKLINE_", "AIRFLOW")
        connection = {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": self.smtp_port,
            "extra": {"disable_ssl": True, "disable_tls": True},
        }
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
            "BACKLINE_HOME": str(self.home),
            "BACKLINE_PORT": str(self._paths.port),
            "BACKLINE__EMAIL__CONNECTION": "smtp_bench",
            "AIRFLOW_CONN_SMTP_BENCH": json.dumps(connection),
            "PYTHONPATH": f"{self.project / 'plugins'}:{self.project}",
        }
        done = subprocess.run(
            [sys.executable, "-P", "-m", "backline.cli", *arguments],
            check=False,
            cwd=self.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode and check:
            raise UnknownFailure(
                f"`backline {arguments[0]}` of the benches' stack: {' '.join(done.stderr.split())[-300:]}"
            )


def query(connection: psycopg.Connection[DictRow], sql: LiteralString, **params: Any) -> list[DictRow]:
    """Rows of a statement; the driver's errors come as ours."""
    with translated():
        return connection.execute(sql, params).fetchall()


def wait_for(condition: Callable[[], object], what: str, seconds: float, *, look_seconds: float = 0.02) -> None:
    """Return once the condition holds; UnknownFailure after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise UnknownFailure(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(look_seconds)
