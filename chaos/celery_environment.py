"""The environment of scenarios on CeleryExecutor: the services of docker-compose.airflow.yml as local processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from chaos.environment import FAST_RETRY_SETTINGS, ChaosEnvironment
from chaos.scenario import Scenario
from testkit.containers.local_host import LocalHost, running_services, start_redis
from testkit.run_inspector import RunInspector
from testkit.tools import Tools

WORKERS = ("worker-default", "worker-critical")


class CeleryEnvironment(ChaosEnvironment):
    """The containers' processes; it restarts killed services as a container engine would."""

    def __init__(
        self, name: str, host: LocalHost, report: Callable[[str], None], tools: Tools, *, short: bool = False
    ) -> None:
        dsn = host.environment("init")["BACKLINE_DATABASE_URL"]
        super().__init__(name, dsn, f"http://127.0.0.1:{host.ports['page']}", report, tools, short=short)
        self._host = host

    def kill_worker(self, worker: str) -> None:
        """SIGKILL a worker with its children, as when its container ends; then start it again."""
        process = psutil.Process(self._host.processes[worker].pid)
        for each in (process, *process.children(recursive=True)):
            each.kill()
        self._host.processes[worker].wait()
        self.report(f"killed {worker}")
        self._host.start(worker)

    def restart_broker(self) -> None:
        """SIGKILL Redis and start it again on its saved data."""
        self._host.processes["redis"].kill()
        self._host.processes["redis"].wait()
        self.report("killed the broker")
        start_redis(self._host, self.tools.redis())

    def task_queue(self, dag_id: str) -> str:
        """The queue of the latest run's task."""
        with RunInspector(
            f"http://127.0.0.1:{self._host.ports['api']}", "admin", self._host.values["BACKLINE_PASSWORD"]
        ) as airflow:
            run = airflow.runs(dag_id)[0]
            return str(airflow.task(dag_id, run["dag_run_id"], "dispatch")["queue"])


@contextmanager
def scenario_services(scenario: Scenario, tools: Tools) -> Iterator[LocalHost]:
    """Run the services for one scenario."""
    with running_services(tools.redis(), *WORKERS, variables={**FAST_RETRY_SETTINGS, **scenario.settings}) as host:
        yield host
