"""Addition to Airflow's Celery worker: when it shuts down, its dispatchers end at once.

Celery's warm shutdown waits for running tasks. That suits jobs, which end within minutes. A dispatcher would stay warm
for as long, and its successor could not start; SIGTERM makes it return its leases and end.

Only Celery workers import this module: `[celery] extra_celery_config` lists it under `imports`.
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
    """Send SIGTERM to the tasks that are dispatchers; runs in the worker's main process, inside its signal handler."""
    if how != "Warm":
        return
    dag_ids = {dispatch_dag_id(lane) for lane in settings().lanes}
    for pid in _worker_pids(dag_ids, list(state.active_requests)):
        # The task is the only child of the pool process, which reports to Airflow how it ended.
        with contextlib.suppress(psutil.Error):
            for task in psutil.Process(pid).children():
                task.terminate()
                log.info("sent SIGTERM to the dispatcher in process %d", task.pid)


def _worker_pids(dag_ids: set[str], requests: Iterable[Any]) -> list[int]:
    return [request.worker_pid for request in requests if request.worker_pid and _request_dag_id(request) in dag_ids]


def _request_dag_id(request: Any) -> str:
    """The DAG of a request's workload, which is its only argument, as JSON."""
    return str(json.loads(request.args[0]).get("ti", {}).get("dag_id", ""))
