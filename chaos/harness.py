"""Runs scenarios one after the other, each in its own folder and on its own stack."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg

from backline.errors import BacklineError, Misconfigured
from chaos.celery_environment import CeleryEnvironment, scenario_services
from chaos.environment import ChaosEnvironment
from chaos.scenario import Scenario
from chaos.scenarios import SCENARIOS
from chaos.stack_environment import StackEnvironment, scenario_stack
from chaos.verdict import Verdict, compute_verdict
from testkit.containers.local_host import LocalHost
from testkit.processes import exclusive_folder
from testkit.stack_copy import StackCopy
from testkit.tools import Tools

PORT_OFFSET = 60


def run(
    home: Path,
    port: int,
    names: Sequence[str],
    json_file: Path | None,
    report: Callable[[str], None],
    show: Callable[[str], None],
    *,
    short: bool = False,
    times: int = 1,
    channels: Sequence[str] = (),
) -> list[str]:
    """Run scenarios, all if none is named, and show the last line of each; returns the problems as text.

    Each runs `times` in a row on one stack. `home` and `port` are BACKLINE_HOME and BACKLINE_PORT; `report` receives
    progress. A failed scenario keeps its folder.
    """
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise Misconfigured(f"no scenario {unknown[0]!r}; use one of {', '.join(SCENARIOS)}")
    folder = home / "chaos"
    verdicts: list[Verdict] = []
    problems: list[str] = []
    with exclusive_folder(folder, "chaos"):
        tools = Tools(folder, report)
        for name in names or SCENARIOS:
            report(f"{name}: {SCENARIOS[name].description}")
            try:
                found = _run_repeatedly(
                    name, folder, port + PORT_OFFSET, report, show, tools, short=short, times=times, channels=channels
                )
            except (BacklineError, psycopg.Error) as exc:
                logs = "" if SCENARIOS[name].on_celery else f"; its logs are in {folder / name / 'home' / 'logs'}"
                problems.append(f"{name}: {exc}{logs}")
                report(problems[-1])
                continue
            verdicts += found
            problems += [f"{name}: {text}" for verdict in found for text in verdict.problems]
    if json_file is not None:
        results = [verdict.as_dict() for verdict in verdicts]
        json_file.write_text(json.dumps({"short": short, "scenarios": results}, indent=1) + "\n", encoding="utf-8")
    return problems


def _run_repeatedly(
    name: str,
    folder: Path,
    port: int,
    report: Callable[[str], None],
    show: Callable[[str], None],
    tools: Tools,
    *,
    short: bool,
    times: int,
    channels: Sequence[str],
) -> list[Verdict]:
    """Run a scenario repeatedly on the same stack, until the first problem."""
    scenario, verdicts = SCENARIOS[name], list[Verdict]()
    stack: StackCopy | LocalHost
    with (
        scenario_services(scenario, tools)
        if scenario.on_celery
        else scenario_stack(scenario, folder / name, port) as stack
    ):
        for number in range(1, times + 1):
            with _build_environment(f"{name}-{number}", stack, report, tools, short=short) as env:
                env.channels = tuple(channels)
                env.wait_until(env.is_receiver_up, "the mail server", 60)
                verdicts.append(run_scenario(scenario, env))
            show(verdicts[-1].line())
            if verdicts[-1].problems:
                return verdicts
    if isinstance(stack, StackCopy):
        stack.remove()
    return verdicts


def _build_environment(
    name: str, stack: StackCopy | LocalHost, report: Callable[[str], None], tools: Tools, *, short: bool
) -> StackEnvironment | CeleryEnvironment:
    if isinstance(stack, LocalHost):
        return CeleryEnvironment(name, stack, report, tools, short=short)
    return StackEnvironment(name, stack, report, tools, short=short)


def run_scenario(scenario: Scenario, env: ChaosEnvironment) -> Verdict:
    """Run one scenario on a running stack and count the messages."""
    started = time.monotonic()
    tolerances = scenario.run(env)
    return compute_verdict(scenario.name, env, tolerances, time.monotonic() - started)
