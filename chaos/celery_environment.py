"""A scenario on CeleryExecutor: the processes of docker-compose.airflow.yml, with Redis and two workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from backline.airflow_api import AirflowClient
from chaos.environment import FAST_RETRY_SETTINGS, ChaosEnvironment
from chaos.scenario import Scenario
from testkit.containers.local_host import LocalHost, running_services, start_redis
from testkit.tools import Tools

WORKERS = ("worker-default", "worker-critical")


class CeleryEnvironment(ChaosEnvironment):
    """On the containers' processes. The part of their engine, which starts again what has ended, is this one's."""

    def __init__(
        self, name: str, host: LocalHost, report: Callable[[str], None], tools: Tools, *, short: bool = False
    ) -> None:
        dsn = host.environment("init")["BACKLINE_DATABASE_URL"]
        super().__init__(name, dsn, f"http://127.0.0.1:{host.ports['page']}", report, tools, short=short)
        self._host = host

    def kill_worker(self, worker: str) -> None:
        """SIGKILL a worker and all that it has started, as the end of its container is; then start it again."""
        process = psutil.Process(self._host.processes[worker].pid)
        for each in (process, *process.children(recursive=True)):
            each.kill()
        self._host.processes[worker].wait()
        self.report(f"killed {worker}")
        self._host.start(worker)

    def restart_broker(self) -> None:
        """SIGKILL Redis, and start it again on what it had saved."""
        self._host.processes["redis"].kill()
        self._host.processes["redis"].wait()
        self.report("killed the broker")
        start_redis(self._host, self.tools.redis())

    def task_queue(self, dag_id: str) -> str:
        """The queue in which the latest run's task was put."""
        with AirflowClient(
            f"http://127.0.0.1:{self._host.ports['api']}", "admin", self._host.values["BACKLINE_PASSWORD"]
        ) as airflow:
            run = airflow.runs(dag_id)[0]
            return str(airflow.task(dag_id, run["dag_run_id"], "dispatch")["queue"])


@contextmanager
def scenario_services(scenario: Scenario, tools: Tools) -> Iterator[LocalHost]:
    """All of them for one scenario, the mail server ready."""
    with running_services(tools.redis(), *WORKERS, variables={**FAST_RETRY_SETTINGS, **scenario.settings}) as host:
        yield host
