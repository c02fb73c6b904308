"""Prepares a process of the stack and becomes it; the supervisor's configuration names this module.

`python -m stack.launch supervisord ARGUMENTS` runs supervisord as the reaper of orphans;
`python -m stack.launch service NAME [ARGUMENTS]` runs one Airflow service.
"""

from __future__ import annotations

import ctypes
import os
import sys

from backline.environment import STACK_ID_VARIABLE
from stack.processes import terminate_processes

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def run_supervisord(arguments: list[str]) -> None:
    """Run supervisord in this process."""
    from supervisor.supervisord import main

    if sys.platform == "linux":
        # Processes orphaned by a crashed service become supervisord's children and are reaped; PID 1 of many
        # containers does not reap.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    main(arguments)


def run_service(arguments: list[str]) -> None:
    """End leftover processes of the service, then replace this process by `airflow` with the arguments."""
    ended = terminate_processes(os.environ[STACK_ID_VARIABLE], arguments[0])
    if ended:
        print(f"backline: ended {ended} leftover processes of {arguments[0]}", file=sys.stderr, flush=True)  # noqa: T201
    os.execv(sys.executable, [sys.executable, "-P", "-m", "airflow", *arguments])  # noqa: S606


if __name__ == "__main__":
    {"supervisord": run_supervisord, "service": run_service}[sys.argv[1]](sys.argv[2:])
