"""Processes of our own: each in a group, what it says in a file, ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from backline.errors import UnknownFailure
from backline.settings import ROOT
from testkit.waiting import wait_for

LOOPBACK = "127.0.0.1"
TERMINATE_TIMEOUT_SECONDS = 10.0


@contextmanager
def managed_process(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, what it says in `log`; the group is ended on leaving."""
    with log.open("wb") as output:
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
        _terminate_group(child)


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, child: subprocess.Popen[bytes], name: str, log: Path) -> None:
    """Wait until something listens there; UnknownFailure if the process that should has ended."""

    def listens() -> bool:
        if child.poll() is not None:
            raise UnknownFailure(f"{name} ended at its start; see {log}")
        with contextlib.suppress(OSError):
            socket.create_connection((LOOPBACK, port), timeout=1).close()
            return True
        return False

    wait_for(listens, f"{name} on port {port}", 20)


def _terminate_group(child: subprocess.Popen[bytes]) -> None:
    """End a process politely, so that it finishes what it has in hand, and then what is left of its group."""
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(TERMINATE_TIMEOUT_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
