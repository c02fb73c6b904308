"""Runs one Airflow service under the supervisor: first ends what its predecessor left, then becomes it.

`python -m stack.service NAME [ARGUMENTS]`
"""

from __future__ import annotations

import os
import sys

from stack.processes import STACK_ID_VARIABLE, terminate_processes


def run_service(arguments: list[str]) -> None:
    """End the leftovers of the service named first, then replace this process by `airflow` with the arguments."""
    ended = terminate_processes(os.environ[STACK_ID_VARIABLE], arguments[0])
    if ended:
        print(f"backline: ended {ended} processes that the last {arguments[0]} left", file=sys.stderr, flush=True)  # noqa: T201
    os.execv(sys.executable, [sys.executable, "-P", "-m", "airflow", *arguments])  # noqa: S606


if __name__ == "__main__":
    run_service(sys.argv[1:])
