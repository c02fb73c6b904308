"""Jobs that fail in different ways; copied into the folder of test DAGs."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from datetime import timedelta
from itertools import repeat

from airflow.sdk import Param, task

from backline.airflow.jobs import job_dag

MARK = {"mark": Param("", type="string"), "succeed": Param(False, type="boolean")}

with job_dag("fails_killed", doc="Kills itself.", retries=0, params=MARK):

    @task
    def killed(params: dict[str, object] | None = None) -> None:
        """Is killed, as by the kernel's out-of-memory killer."""
        assert params is not None
        if not params["succeed"]:
            os.kill(os.getpid(), signal.SIGKILL)

    killed()

with job_dag("fails_raising", doc="Raises.", retries=0, params=MARK):

    @task
    def raising(params: dict[str, object] | None = None) -> None:
        """Raises an error."""
        assert params is not None
        if not params["succeed"]:
            raise ConnectionRefusedError(f"the server is down ({params['mark']})")

    raising()

with job_dag("fails_late", doc="Takes too long.", retries=0, params=MARK) as late_dag:

    @task
    def sleeping(params: dict[str, object] | None = None) -> None:
        """Sleeps until its timeout."""
        assert params is not None
        time.sleep(0 if params["succeed"] else 300)

    sleeping()

late_dag.dagrun_timeout = timedelta(seconds=4)

with job_dag("fails_by_hand", doc="Waits to be marked failed.", retries=0, params=MARK):

    @task
    def waiting(params: dict[str, object] | None = None) -> None:
        """Waits for a person."""
        assert params is not None
        time.sleep(0 if params["succeed"] else 300)

    waiting()

with job_dag(
    "fails_stuck", doc="Is stuck in C code.", retries=0, params=MARK, soft_limit_seconds=3, hard_limit_seconds=4
):

    @task
    def stuck(params: dict[str, object] | None = None) -> None:
        """Counts in C code, where a signal's exception cannot interrupt it."""
        assert params is not None
        deque(repeat(None, 0 if params["succeed"] else 10**15), maxlen=0)

    stuck()

with job_dag("ends_after_its_deadline", doc="Is late, and succeeds.", retries=0, deadline_seconds=2):

    @task
    def long() -> None:
        """Takes longer than the deadline."""
        time.sleep(8)

    long()
