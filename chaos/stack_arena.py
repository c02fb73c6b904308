"""A scenario on the embedded stack: its services and dispatchers are the levers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType

import psutil

from backline.demo.trouble import dispatcher_processes
from backline.demo.world import World
from backline.outbox.shutdown import stop_dispatchers
from backline.stack.processes import supervised
from chaos.arena import LANE, QUICK_RETRIES, Arena
from chaos.scenario import Scenario
from rig.stack_copy import StackCopy
from rig.tools import Tools

STOPPED_SECONDS = 60.0


@contextmanager
def own_stack(scenario: Scenario, folder: Path, port: int) -> Iterator[StackCopy]:
    """A stack for one scenario, running. Its state stays, to be looked at; it goes when that scenario is run again."""
    copy = StackCopy(
        folder, port, lambda _: None, variables={**QUICK_RETRIES, **scenario.variables}, fork=scenario.fork
    )
    copy.remove()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        copy.up()
        yield copy
    finally:
        copy.backline("down", check=False)


class StackArena(Arena):
    """On a copy of the stack that runs."""

    def __init__(
        self, name: str, copy: StackCopy, report: Callable[[str], None], tools: Tools, *, short: bool = False
    ) -> None:
        super().__init__(name, copy.dsn, copy.stack.exports()["BACKLINE_MAIL_URL"], report, tools, short=short)
        self.copy = copy
        self._world = World(copy.stack, report)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._world.__exit__(kind, exc, trace)
        super().__exit__(kind, exc, trace)

    def dispatcher(self) -> psutil.Process:
        """The process of the dispatcher that holds most."""
        found: list[psutil.Process] = []

        def at_work() -> bool:
            found.extend(islice(dispatcher_processes(self._world, LANE), 1))
            return bool(found)

        self.wait(at_work, "a dispatcher at work", 60)
        return found[0]

    def kill(self, service: str) -> None:
        """SIGKILL a service, and wait until the supervisor has started it again."""
        supervisor = self.copy.stack.supervisor
        pid = supervisor.states()[service].pid
        psutil.Process(pid).kill()
        self.report(f"killed {service}, process {pid}")

        def again() -> bool:
            state = supervisor.states().get(service)
            return state is not None and state.state == "RUNNING" and state.pid not in {0, pid}

        self.wait(again, f"{service} to run again", 60)

    def processes(self, service: str) -> list[psutil.Process]:
        """All processes of a service, those that it started included."""
        return supervised(self.copy.stack.supervisor.stack_id, service)

    def stop_dispatchers(self) -> None:
        """End all that are at work or warm, as `down` does first."""
        stop_dispatchers(self.dsn, timeout=STOPPED_SECONDS)

    def wait_healthy(self) -> None:
        """Wait until every component says that it is well."""
        self.wait(lambda: all(check.ok for check in self.copy.stack.checks()), "all components healthy", 120)

    def prove_alive(self) -> None:
        """With no warm dispatcher left, a new message has to wake one: every part of the chain must work."""
        self.wait_healthy()
        self.wait_ended()
        self.stop_dispatchers()
        before = self.arrived()
        self.producer.put(20)
        self.wait_arrived(before + 20, 60)
