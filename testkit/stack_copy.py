"""A copy of the project with its own stack, customized as a team that forked Backline would do.

Benches and chaos scenarios use the copy, so that the project can be edited meanwhile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import DictRow, dict_row

from backline.db.connect import translate_errors
from backline.errors import UnknownFailure
from backline.outbox.maintenance import stop_dispatchers
from backline.settings import ROOT
from stack.health import LocalAirflowClient
from stack.lifecycle import Stack
from stack.paths import Paths
from stack.postgres import SYSTEM_FOLDER
from testkit.processes import wait_for

COPIED_FOLDERS = ("dags", "include", "plugins", "sandbox", "stack")
STOP_TIMEOUT_SECONDS = 60.0


class StackCopy:
    """Backline in `folder`, on `port` and the next two."""

    def __init__(
        self,
        folder: Path,
        port: int,
        report: Callable[[str], None],
        *,
        variables: Mapping[str, str],
        customize: Callable[[Path], None] = lambda _: None,
    ) -> None:
        """`variables` override the shipped settings; `customize` may change the copied project."""
        self._report = report
        self._variables = variables
        self._customize = customize
        self.project = folder / "project"
        self.home = folder / "home"
        self._state = ""
        self._stack: Stack | None = None
        self._paths = Paths(self.project, self.home, port)

    @property
    def stack(self) -> Stack:
        """The stack of this copy."""
        if self._stack is None:
            self._stack = Stack(self._report, self._paths)
        return self._stack

    @property
    def dsn(self) -> str:
        """The DSN of the app database."""
        return self.stack.cluster.dsn("backline")

    def up(self) -> None:
        """Start everything and wait until it is ready."""
        if self._state != "up":
            self._report("starting a copy of the stack (about a minute)")
            self._copy_project()
            self.run_command("up")
            self._state = "up"

    def start_database(self) -> None:
        """Start PostgreSQL and the mail catcher, without the rest of the stack."""
        if self._state == "up":
            self.run_command("down")
        if self._state != "database":
            self._report("starting a PostgreSQL server")
            self._copy_project()
            self.run_command("setup")
            self._state = "database"

    def remove(self) -> None:
        """Stop everything and remove its folders, including those of an earlier, killed run."""
        if not self.home.exists():
            return
        if self.project.exists():
            self._report("stopping the copy of the stack")
            self.run_command("down", check=False)
        if self._paths.secrets_file.exists():
            shutil.rmtree(SYSTEM_FOLDER / self.stack.secrets.instance_id, ignore_errors=True)
        for folder in (self.home, self.project):
            shutil.rmtree(folder, ignore_errors=True)
        self._state, self._stack = "", None

    def connect(self) -> psycopg.Connection[DictRow]:
        """A connection as an app would open it, in autocommit."""
        with translate_errors():
            return psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row)

    def stop_dispatchers(self) -> None:
        """Stop all dispatchers and wait until Airflow has no run of theirs: the next message starts cold."""
        stop_dispatchers(self.dsn, timeout=STOP_TIMEOUT_SECONDS)
        api = LocalAirflowClient(self._paths, self.stack.secrets)
        wait_for(
            lambda: not any(dag.startswith("dispatch_") for dag in api.dags_with_unfinished_runs(datetime.now(UTC))),
            "the end of all dispatchers",
            STOP_TIMEOUT_SECONDS,
            poll_interval_seconds=0.2,
        )

    def _copy_project(self) -> None:
        if self.project.exists():
            return
        for name in COPIED_FOLDERS:
            shutil.copytree(ROOT / name, self.project / name)
        self._customize(self.project)

    def down(self) -> None:
        """Stop everything and keep its state."""
        self.run_command("down")
        self._state = ""

    def run_command(self, *arguments: str, check: bool = True) -> None:
        """Run a `./backline` command for this copy; UnknownFailure if it fails."""
        foreign = ("BACKLINE_", "AIRFLOW")
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
            "BACKLINE_HOME": str(self.home),
            "BACKLINE_PORT": str(self._paths.port),
            "PYTHONPATH": f"{self.project / 'plugins'}:{self.project}",
            **self._variables,
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
                f"`backline {arguments[0]}` of the copy of the stack failed: {' '.join(done.stderr.split())[-300:]}"
            )


def query(connection: psycopg.Connection[DictRow], sql: LiteralString, **params: Any) -> list[DictRow]:
    """Execute a statement and return its rows; driver errors are translated."""
    with translate_errors():
        return connection.execute(sql, params).fetchall()
