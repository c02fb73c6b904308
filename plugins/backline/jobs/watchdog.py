"""Kills a task that is past its hard limit or its memory limit, also when Python is stuck in C code.

A process of its own, which ends with the task. A bare interpreter runs this file, so it imports nothing of ours.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

HARD_LIMIT = "backline: hard limit"
MEMORY_LIMIT = "backline: memory limit"
"""How the last line of a killed task's log begins; dead letters are read from it."""
POLL_INTERVAL_SECONDS = 1.0
PROC = Path("/proc")


def start_watchdog(seconds: float, memory_mib: int) -> int:
    """Start a watchdog over this process; returns a descriptor that must stay open as long as it is to watch.

    After `seconds`, or (if not 0) with more than `memory_mib` MiB of memory in this process and its children, this
    process's group is killed with SIGKILL.
    """
    ours, theirs = os.pipe()
    subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(seconds), str(memory_mib)], stdin=ours
    )
    os.close(ours)
    return theirs


def memory_usage(pid: int) -> int:
    """Bytes of memory that a process and its descendants have for themselves: their anonymous pages."""
    total = 0
    try:
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                total = int(line.split()[1]) * 1024
        children = (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
    except OSError:
        return total  # it has ended
    return total + sum(memory_usage(int(child)) for child in children if int(child) != os.getpid())


def _kill(pid: int, why: str) -> None:
    sys.stderr.write(f"{why}; the task is killed\n")
    sys.stderr.flush()
    if os.getpgid(pid) == pid:
        os.killpg(pid, signal.SIGKILL)  # this process too
    os.kill(pid, signal.SIGKILL)


def main(pid: int, seconds: float, memory_mib: int) -> None:
    """Watch until the limit, or until the other end of stdin is closed: the task has ended."""
    deadline = time.monotonic() + seconds
    while os.getppid() == pid:
        left = deadline - time.monotonic()
        if left <= 0:
            return _kill(pid, f"{HARD_LIMIT} of {seconds:.0f} s is over")
        if memory_mib and (used := memory_usage(pid)) > memory_mib * 1024 * 1024:
            return _kill(pid, f"{MEMORY_LIMIT} of {memory_mib} MiB is exceeded: {used // 1024 // 1024} MiB")
        ready, _, _ = select.select([sys.stdin], [], [], min(left, POLL_INTERVAL_SECONDS if memory_mib else 60.0))
        if ready:
            return None
    return None


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
