"""Copies of the stack that tests start and stop through `./backline`, as a user does."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from backline.settings import ROOT
from demo.context import DemoContext
from stack.lifecycle import Stack
from stack.paths import Paths
from testkit.suite import temporary_stack_folder

# Retries within seconds; other settings are as shipped.
FAST_RETRIES = {
    f"BACKLINE__RETRY__{kind}__INITIAL_DELAY_SECONDS": "1"
    for kind in ("TIMEOUT", "NETWORK", "DATABASE", "RATE_LIMITED", "RESOURCE", "UNKNOWN")
}
COMMAND_SECONDS = 280


@dataclass(frozen=True)
class IsolatedStack:
    """A copy of the stack with its own state folder and ports."""

    home: Path
    port: int

    def run(
        self, *arguments: str, check: bool = True, seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run `./backline` for this copy, from another folder and without the variables of the caller's stack."""
        done = subprocess.run(
            [str(ROOT / "backline"), *arguments],
            check=False,
            cwd="/",
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def environment(self) -> dict[str, str]:
        """The environment for `./backline` of this copy."""
        foreign = ("BACKLINE_", "AIRFLOW")
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
            **FAST_RETRIES,
            "BACKLINE_HOME": str(self.home),
            "BACKLINE_PORT": str(self.port),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(self._bundles()),
        }

    @property
    def own_dags(self) -> Path:
        """A folder for tests' own DAG files, which are parsed within seconds."""
        return self.home / "dags"

    def _bundles(self) -> list[dict[str, object]]:
        local = "airflow.dag_processing.bundles.local.LocalDagBundle"
        folders = {"dags-folder": ROOT / "dags", "tests": self.own_dags}
        return [
            {"name": name, "classpath": local, "kwargs": {"path": str(path), "refresh_interval": 2}}
            for name, path in folders.items()
        ]

    def exports(self) -> dict[str, str]:
        """The variables that `./backline env` prints."""
        lines = self.run("env").stdout.splitlines()
        return dict(shlex.split(line)[1].split("=", 1) for line in lines)

    def context(self) -> DemoContext:
        """A demo context of this copy, with unique names."""
        return DemoContext(Stack(lambda _: None, Paths(ROOT, self.home, self.port)), lambda _: None)


def create_stack() -> IsolatedStack:
    """A copy that is not set up yet, on free ports."""
    home = temporary_stack_folder()
    (home / "dags").mkdir()
    return IsolatedStack(home, first_free_port(5))


def remove_stack(copy: IsolatedStack) -> None:
    """Stop the copy and remove its state."""
    copy.run("down", check=False)
    shutil.rmtree(copy.home, ignore_errors=True)


def first_free_port(count: int) -> int:
    """The first of `count` consecutive free ports."""
    for first in range(20_000 + os.getpid() % 5_000 * 2, 32_000, count):
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free ports between 20000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
