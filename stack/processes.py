"""Finding and ending what a copy of the stack has running, reparented processes included.

A SIGKILLed scheduler leaves its executor's workers alive, each task is in a process group of its own, and the log
server keeps its port. So membership is read from the environment, which every descendant inherits. What runs tasks
hides its environment from other users of the machine and from its own (Airflow guards the task's token so, with
prctl(2) PR_SET_DUMPABLE): such a process is known by the session that it shares with readable ones of the copy.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Container, Iterator

import psutil

STACK_ID_VARIABLE = "BACKLINE_STACK_ID"
"""Which copy a process belongs to; only what the supervisor started has it."""
SERVICE_NAME_VARIABLE = "SUPERVISOR_PROCESS_NAME"
"""Which service of it; supervisord sets this."""
TASK_SERVICE = "scheduler"
"""The service whose processes hide their environment."""


def find_processes(stack_id: str, service: str | None = None, sessions: set[int] | None = None) -> list[psutil.Process]:
    """All live processes of that copy (of that service), except this one and its ancestors.

    `sessions` remembers the copy's from one look to the next, for when the last readable process is gone.
    """
    sessions = set() if sessions is None else sessions
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [
        process
        for process, its_service in _iter_stack_processes(stack_id, sessions)
        if process.pid not in mine and service in {None, its_service}
    ]


def _iter_stack_processes(stack_id: str, sessions: set[int]) -> Iterator[tuple[psutil.Process, str | None]]:
    """Each process of that copy, and which service it is part of; adds to its sessions."""
    hidden: list[tuple[psutil.Process, int]] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            session = os.getsid(process.pid)
            try:
                variables = process.environ()
            except psutil.AccessDenied:
                hidden.append((process, session))
                continue
            if variables.get(STACK_ID_VARIABLE) == stack_id:
                sessions.add(session)
                yield process, variables.get(SERVICE_NAME_VARIABLE)
    yield from ((process, TASK_SERVICE) for process, session in hidden if session in sessions)


def terminate_tasks(stack_id: str, services: Container[int]) -> None:
    """SIGTERM every running task, so that its `on_kill` runs and its supervisor reports how it ended.

    A task leads a process group of its own; so does each service, whose process ids are given to be spared.
    """
    for process in find_processes(stack_id, TASK_SERVICE):
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in services and os.getpgid(process.pid) == process.pid:
                process.terminate()


def terminate_processes(
    stack_id: str, service: str | None = None, *, grace: float = 8.0, exclude: Container[int | None] = ()
) -> int:
    """End every process of that copy (of that service) but those to spare; returns how many there were.

    Group leaders (tasks, services) get SIGTERM and `grace` seconds, PostgreSQL its fast shutdown; what holds nothing
    of its own, such as an idle worker that could only take more tasks, is killed at once, as is all that is left.
    """
    deadline = time.monotonic() + grace
    seen: set[int] = set()
    sessions: set[int] = set()
    while left := [process for process in find_processes(stack_id, service, sessions) if process.pid not in exclude]:
        late = time.monotonic() > deadline
        for process in left:
            with contextlib.suppress(psutil.Error, OSError):
                _signal_process(process, first=process.pid not in seen, late=late)
            seen.add(process.pid)
        psutil.wait_procs(left, timeout=0.2)
    return len(seen)


def _signal_process(process: psutil.Process, *, first: bool, late: bool) -> None:
    leads = os.getpgid(process.pid) == process.pid
    if _service_name(process) == "postgres":
        # Never SIGKILL: backends would live on, on the data of the next server. SIGINT is the fast shutdown,
        # SIGQUIT the immediate one, after which the next start recovers.
        if leads and (first or late):
            process.send_signal(signal.SIGQUIT if late else signal.SIGINT)
    elif late or (not leads and not process.children()):
        process.kill()
    elif leads and first:
        process.terminate()


def _service_name(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(SERVICE_NAME_VARIABLE)
    except psutil.AccessDenied:
        return TASK_SERVICE
