"""Finds and ends the processes of a copy of the stack, including reparented ones.

A SIGKILLed scheduler leaves its executor's workers alive, each task is in its own process group, and the log server
keeps its port. So a process is recognized by its environment, which every descendant inherits. Task runners hide
theirs even from their own user (Airflow protects the task's token with prctl(2) PR_SET_DUMPABLE): such a process is
recognized by the session that it shares with readable processes of the copy.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Container, Iterator

import psutil

from backline.environment import STACK_ID_VARIABLE

SERVICE_NAME_VARIABLE = "SUPERVISOR_PROCESS_NAME"
"""Which service a process belongs to; supervisord sets it."""
TASK_SERVICE = "scheduler"
"""The service whose processes hide their environment."""


def find_processes(stack_id: str, service: str | None = None, sessions: set[int] | None = None) -> list[psutil.Process]:
    """All live processes of that copy (of that service), except this one and its ancestors.

    `sessions` keeps the copy's sessions between calls, for when the last readable process has ended.
    """
    sessions = set() if sessions is None else sessions
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [
        process
        for process, name in _iter_stack_processes(stack_id, sessions)
        if process.pid not in own and service in {None, name}
    ]


def _iter_stack_processes(stack_id: str, sessions: set[int]) -> Iterator[tuple[psutil.Process, str | None]]:
    """Each process of that copy with the name of its service; adds to `sessions`."""
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
    """Send SIGTERM to every running task, so that its `on_kill` runs and its supervisor reports its end.

    A task leads its own process group. So does each service: their process ids, `services`, are excluded.
    """
    for process in find_processes(stack_id, TASK_SERVICE):
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in services and os.getpgid(process.pid) == process.pid:
                process.terminate()


def terminate_processes(
    stack_id: str, service: str | None = None, *, grace: float = 8.0, exclude: Container[int | None] = ()
) -> int:
    """End every process of that copy (of that service) except those in `exclude`; returns how many there were.

    Group leaders (tasks, services) get SIGTERM and `grace` seconds, PostgreSQL a fast shutdown; others, such as idle
    workers that could only take more tasks, are killed at once, as is everything left after `grace`.
    """
    deadline = time.monotonic() + grace
    seen: set[int] = set()
    sessions: set[int] = set()
    while left := [process for process in find_processes(stack_id, service, sessions) if process.pid not in exclude]:
        overdue = time.monotonic() > deadline
        for process in left:
            with contextlib.suppress(psutil.Error, OSError):
                _signal_process(process, first=process.pid not in seen, overdue=overdue)
            seen.add(process.pid)
        psutil.wait_procs(left, timeout=0.2)
    return len(seen)


def _signal_process(process: psutil.Process, *, first: bool, overdue: bool) -> None:
    is_leader = os.getpgid(process.pid) == process.pid
    if _service_name(process) == "postgres":
        # Never SIGKILL: backends would keep using the data that the next server opens. SIGINT is the fast shutdown,
        # SIGQUIT the immediate one, after which the next start recovers.
        if is_leader and (first or overdue):
            process.send_signal(signal.SIGQUIT if overdue else signal.SIGINT)
    elif overdue or (not is_leader and not process.children()):
        process.kill()
    elif is_leader and first:
        process.terminate()


def _service_name(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(SERVICE_NAME_VARIABLE)
    except psutil.AccessDenied:
        return TASK_SERVICE
