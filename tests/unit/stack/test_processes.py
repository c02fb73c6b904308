"""Processes that hide their environment, as Airflow's task runners do, are found and ended."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

from backline.settings import ROOT

SCRIPT = """
import contextlib, ctypes, os, signal, subprocess, sys, time

import psutil

from stack.processes import find_processes, terminate_processes

PR_SET_DUMPABLE = 4
stack_id = sys.argv[1]

def fork(lead):
    ready, done = os.pipe()
    if pid := os.fork():
        os.read(ready, 1)
        return pid
    if lead:
        os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.write(done, b".")
    time.sleep(60)
    os._exit(0)

if sys.argv[2] == "scheduler":
    print(fork(lead=False), fork(lead=True), flush=True)
    time.sleep(60)
else:
    mine = dict(os.environ, BACKLINE_STACK_ID=stack_id, SUPERVISOR_PROCESS_NAME="scheduler")
    leader = subprocess.Popen(
        [sys.executable, __file__, stack_id, "scheduler"], env=mine, start_new_session=True,
        stdout=subprocess.PIPE, text=True,
    )
    hidden = [int(pid) for pid in leader.stdout.readline().split()]
    try:
        for pid in hidden:
            try:
                psutil.Process(pid).environ()
            except psutil.AccessDenied:
                continue
            raise SystemExit("the environment can be read: this proves nothing")
        found = {process.pid for process in find_processes(stack_id, "scheduler")}
        others = find_processes(stack_id, "postgres")
        ended = terminate_processes(stack_id, "scheduler", grace=2.0)
        alive = [pid for pid in hidden if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        print(found == {leader.pid, *hidden}, others, ended, alive)
    finally:
        for pid in (leader.pid, *hidden):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        leader.wait()
"""


def test_hidden_processes_are_found_and_ended(tmp_path: Path) -> None:
    script = tmp_path / "hiding.py"
    script.write_text(SCRIPT)
    # Without capabilities, root is an ordinary user.
    plain = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*plain, sys.executable, str(script), uuid.uuid4().hex, "test"],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "True [] 3 []\n", done.stderr
