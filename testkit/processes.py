"""Child processes, ports, waiting, and the lock and signals of a long run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from backline.errors import Misconfigured, UnknownFailure
from backline.settings import ROOT

LOOPBACK = "127.0.0.1"
TERMINATE_TIMEOUT_SECONDS = 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_on_signal() -> None:
    """Make each of SIGNALS raise, so that every `with` block ends what it started."""
    for number in SIGNALS:
        signal.signal(number, _handle_signal)


def _handle_signal(number: int, _frame: FrameType | None) -> NoReturn:
    for each in SIGNALS:  # a second signal must not interrupt the clean-up
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


@contextmanager
def exclusive_folder(folder: Path, command: str) -> Iterator[None]:
    """Lock a folder, created if missing; Misconfigured if another run of `command` holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Misconfigured(f"another {command} runs in {folder}; wait for it, or set BACKLINE_HOME") from None
    try:
        yield
    finally:
        os.close(descriptor)


def wait_for(
    condition: Callable[[], object], description: str, timeout_seconds: float, *, poll_interval_seconds: float = 0.02
) -> None:
    """Return once the condition holds; UnknownFailure after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise UnknownFailure(f"timed out after {timeout_seconds:.0f} s waiting for {description}")
        time.sleep(poll_interval_seconds)


@contextmanager
def managed_process(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in its own group, its output in `log`; ends the group on exit."""
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
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, child: subprocess.Popen[bytes], name: str, log: Path) -> None:
    """Wait until the process listens on the port; UnknownFailure if it has ended."""

    def is_listening() -> bool:
        if child.poll() is not None:
            raise UnknownFailure(f"{name} ended at its start; see {log}")
        with contextlib.suppress(OSError):
            socket.create_connection((LOOPBACK, port), timeout=1).close()
            return True
        return False

    wait_for(is_listening, f"{name} on port {port}", 20)


def _terminate_group(child: subprocess.Popen[bytes]) -> None:
    """Terminate a process, wait for it to end, then kill what is left of its group."""
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(TERMINATE_TIMEOUT_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
