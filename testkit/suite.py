"""A run of pytest that leaves neither processes nor folders behind, even when it is stopped halfway.

A test's fixtures end what they started. But xdist kills its workers 10 seconds after an interrupt, and a killed worker ends nothing.
So every process of a run inherits RUN_FOLDER_VARIABLE; whatever still has it after pytest has ended is ended here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

from backline.environment import STACK_ID_VARIABLE
from backline.settings import ROOT
from stack.processes import terminate_processes
from testkit.processes import wait_for

RUN_FOLDER_VARIABLE = "TEST_RUN_FOLDER"
"""The run's folder for stacks; marks the run's processes."""
END_TIMEOUT_SECONDS = 30.0


def marker() -> dict[str, str]:
    """The variable that marks the run's processes, for a process that does not inherit this one's environment."""
    return {name: value for name, value in os.environ.items() if name == RUN_FOLDER_VARIABLE}


def temporary_stack_folder(prefix: str = "bl-") -> Path:
    """A new folder, removed with the run, for a stack's state; its path is short, as it will contain PostgreSQL's socket."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=os.environ.get(RUN_FOLDER_VARIABLE, "/tmp")))
    # Under root, PostgreSQL's user must be able to enter it; otherwise its data would be stored elsewhere.
    folder.chmod(0o711)
    return folder


def run_to_end(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a test command and return its exit code. On SIGINT or SIGTERM interrupt it, so that tests clean up, then exit."""
    folder = temporary_stack_folder()
    try:
        return run_command(command, {**environment, RUN_FOLDER_VARIABLE: str(folder)})
    finally:
        _end_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)


def run_command(command: Sequence[str], environment: Mapping[str, str] | None = None, *, quiet: bool = False) -> int:
    """Run a command and return its exit code. On SIGINT or SIGTERM interrupt it, wait for its end, then exit."""
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def interrupt(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGTERM and child is not None:
            _interrupt_group(child.pid)

    # Before the child starts: a shell's background job ignores SIGINT, and the child would inherit that.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        output = subprocess.DEVNULL if quiet else None
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output) as child:
            code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise SystemExit(128 + received[0])
    return code


def _interrupt_group(pid: int) -> None:
    """Interrupt a process and its descendants of this process's group, as Ctrl-C in a terminal does."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getpgid(each.pid) == os.getpgrp():
                    each.send_signal(signal.SIGINT)


def _end_processes(folder: Path) -> None:
    """End the run's processes: first those that could start more, then the stacks."""
    for process in _find_processes(folder):
        with contextlib.suppress(psutil.Error):
            if STACK_ID_VARIABLE not in process.environ():
                # PostgreSQL would leave its shared memory behind if it were killed.
                process.send_signal(signal.SIGQUIT if process.name() == "postgres" else signal.SIGKILL)
    for process in _find_processes(folder):
        with contextlib.suppress(psutil.Error):
            if stack_id := process.environ().get(STACK_ID_VARIABLE):
                terminate_processes(stack_id)
    wait_for(lambda: not _find_processes(folder), "the end of the tests' processes", END_TIMEOUT_SECONDS)


def _find_processes(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(RUN_FOLDER_VARIABLE) == str(folder):
                found.append(process)
    return found
