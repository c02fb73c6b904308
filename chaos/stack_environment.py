"""The environment of scenarios on a copy of the embedded stack: kills its services and dispatchers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType

import psutil

from backline.outbox.maintenance import stop_dispatchers
from chaos.environment import FAST_RETRY_SETTINGS, LANE, ChaosEnvironment
from chaos.scenario import Scenario
from demo.context import DemoContext
from demo.faults import dispatcher_processes
from stack.processes import find_processes
from testkit.stack_copy import StackCopy
from testkit.tools import Tools

STOP_TIMEOUT_SECONDS = 60.0


@contextmanager
def scenario_stack(scenario: Scenario, folder: Path, port: int) -> Iterator[StackCopy]:
    """Run a stack for one scenario. Its state is kept for inspection, until that scenario runs again."""
    copy = StackCopy(
        folder,
        port,
        lambda _: None,
        variables={**FAST_RETRY_SETTINGS, **scenario.settings},
        customize=scenario.customize,
    )
    copy.remove()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        copy.up()
        yield copy
    finally:
        copy.run_command("down", check=False)


class StackEnvironment(ChaosEnvironment):
    """A running copy of the stack."""

    def __init__(
        self, name: str, copy: StackCopy, report: Callable[[str], None], tools: Tools, *, short: bool = False
    ) -> None:
        super().__init__(name, copy.dsn, copy.stack.variables()["BACKLINE_MAIL_URL"], report, tools, short=short)
        self.stack_copy = copy
        self._demo_context = DemoContext(copy.stack, report)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._demo_context.__exit__(kind, exc, trace)
        super().__exit__(kind, exc, trace)

    def busiest_dispatcher(self) -> psutil.Process:
        """The process of the dispatcher that has leased most messages."""
        found: list[psutil.Process] = []

        def find_one() -> bool:
            found.extend(islice(dispatcher_processes(self._demo_context, LANE), 1))
            return bool(found)

        self.wait_until(find_one, "a dispatcher at work", 60)
        return found[0]

    def kill_service(self, service: str) -> None:
        """SIGKILL a service and wait until the supervisor has restarted it."""
        supervisor = self.stack_copy.stack.supervisor
        pid = supervisor.states()[service].pid
        psutil.Process(pid).kill()
        self.report(f"killed {service}, process {pid}")

        def has_restarted() -> bool:
            state = supervisor.states().get(service)
            return state is not None and state.state == "RUNNING" and state.pid not in {0, pid}

        self.wait_until(has_restarted, f"the restart of {service}", 60)

    def service_processes(self, service: str) -> list[psutil.Process]:
        """All processes of a service, including its children."""
        return find_processes(self.stack_copy.stack.supervisor.stack_id, service)

    def stop_dispatchers(self) -> None:
        """Stop all dispatchers, as `down` does first."""
        stop_dispatchers(self.dsn, timeout=STOP_TIMEOUT_SECONDS)

    def wait_healthy(self) -> None:
        """Wait until every component is healthy."""
        self.wait_until(
            lambda: all(check.ok for check in self.stack_copy.stack.health_checks()), "all components healthy", 120
        )

    def verify_end_to_end(self) -> None:
        """Check that, without a warm dispatcher, a new message starts one and is delivered."""
        self.wait_healthy()
        self.wait_finalized()
        self.stop_dispatchers()
        before = self.received_count()
        self.producer.enqueue(20)
        self.wait_received(before + 20, 60)
