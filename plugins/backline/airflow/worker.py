"""What a Celery worker does more than Airflow's own: told to stop, it ends its dispatchers at once.

Celery's warm shutdown waits for what runs. That is right for jobs, which end within minutes; a dispatcher would stay
warm for as long, while its successor cannot start. So it gets SIGTERM, which makes it return what it holds.

Celery imports this module in its workers and nowhere else: `[celery] extra_celery_config` has it under `imports`.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable
from typing import Any

import psutil
from celery.signals import worker_shutting_down
from celery.worker import state

from backline.airflow.dispatch import dispatch_dag_id
from backline.settings import settings

log = logging.getLogger(__name__)


@worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
def stop_dispatchers(how: str, **_: Any) -> None:
    """Signal the tasks that are dispatchers; called in the worker's main process, inside its signal handler."""
    if how != "Warm":
        return
    wanted = {dispatch_dag_id(lane) for lane in settings().lanes}
    for pid in _worker_pids(wanted, list(state.active_requests)):
        # The task is the pool process's only child; the pool process itself tells Airflow how it ended.
        with contextlib.suppress(psutil.Error):
            for task in psutil.Process(pid).children():
                task.terminate()
                log.info("told the dispatcher in process %d to end", task.pid)


def _worker_pids(dag_ids: set[str], requests: Iterable[Any]) -> list[int]:
    return [request.worker_pid for request in requests if request.worker_pid and _request_dag_id(request) in dag_ids]


def _request_dag_id(request: Any) -> str:
    """The DAG of the workload that a request carries: JSON, its only argument."""
    return str(json.loads(request.args[0]).get("ti", {}).get("dag_id", ""))
