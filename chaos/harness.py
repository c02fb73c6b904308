"""One run of scenarios, one after the other, each in a folder and on a stack of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg

from backline.errors import BacklineError, Misconfigured
from chaos.arena import Arena
from chaos.celery_arena import own_containers
from chaos.scenario import Scenario
from chaos.scenarios import SCENARIOS
from chaos.stack_arena import StackArena, own_stack
from chaos.tally import Verdict, count
from rig.folders import alone_in
from rig.tools import Tools

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
) -> list[str]:
    """Run those scenarios, all if none is named, and show each one's last line; returns what went wrong, in words.

    `home` and `port` are BACKLINE_HOME and BACKLINE_PORT; `report` is told what goes on. What failed keeps its folder.
    """
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise Misconfigured(f"no scenario {unknown[0]!r}; use one of {', '.join(SCENARIOS)}")
    folder = home / "chaos"
    verdicts: list[Verdict] = []
    wrong: list[str] = []
    with alone_in(folder, "chaos"):
        tools = Tools(folder, report)
        for name in names or SCENARIOS:
            report(f"{name}: {SCENARIOS[name].about}")
            try:
                verdict = _run(name, folder, port + PORT_OFFSET, report, tools, short=short)
            except (BacklineError, psycopg.Error) as exc:
                kept = "" if SCENARIOS[name].on_celery else f"; its logs are in {folder / name / 'home' / 'logs'}"
                wrong.append(f"{name}: {exc}{kept}")
                report(wrong[-1])
                continue
            verdicts.append(verdict)
            wrong += [f"{name}: {text}" for text in verdict.wrong]
            show(verdict.line())
    if json_file is not None:
        found = [verdict.as_dict() for verdict in verdicts]
        json_file.write_text(json.dumps({"short": short, "scenarios": found}, indent=1) + "\n", encoding="utf-8")
    return wrong


def _run(name: str, folder: Path, port: int, report: Callable[[str], None], tools: Tools, *, short: bool) -> Verdict:
    scenario = SCENARIOS[name]
    if scenario.on_celery:
        with own_containers(scenario, report, tools, short=short) as celery:
            return carry_out(scenario, celery)
    with (
        own_stack(scenario, folder / name, port) as copy,
        StackArena(name, copy, report, tools, short=short) as arena,
    ):
        verdict = carry_out(scenario, arena)
    if not verdict.wrong:
        copy.remove()
    return verdict


def carry_out(scenario: Scenario, arena: Arena) -> Verdict:
    """One scenario on a stack that runs."""
    began = time.monotonic()
    bounds = scenario.run(arena)
    return count(scenario.name, arena, bounds, time.monotonic() - began)
