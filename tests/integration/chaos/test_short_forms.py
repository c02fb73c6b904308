"""Every chaos scenario in its short form, one after the other on one stack: no message is lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.environment import FAST_RETRY_SETTINGS
from chaos.harness import run_scenario
from chaos.scenarios import SCENARIOS
from chaos.stack_environment import StackEnvironment
from stack.paths import Paths
from testkit.stack_copy import StackCopy
from testkit.suite import temporary_stack_folder
from testkit.tools import Tools
from tests.acceptance.isolated_stack import first_free_port

pytestmark = pytest.mark.stack

STACK_SCENARIOS = [name for name, scenario in SCENARIOS.items() if not scenario.on_celery]
DEFAULT_SCENARIOS = {"dispatcher-killed", "postgres-killed", "smtp-answers", "poison-values"}
"""One per kind of fault; the others run before a release."""
LONG_SCENARIOS = {"stack-down", "poison", "triggerer-killed", "api-server-killed", "smtp-down", "clock-off"}
# So that a dead dispatcher is noticed within seconds; these override a scenario's own settings.
SHORT_TIMEOUTS = {"BACKLINE__OUTBOX__HEARTBEAT_TIMEOUT_SECONDS": "3", "BACKLINE__LANE_TRIGGER__COOLDOWN_SECONDS": "2"}


def _customize_project(project: Path) -> None:
    for scenario in SCENARIOS.values():
        scenario.customize(project)


@pytest.fixture(scope="module")
def stack_copy() -> Iterator[StackCopy]:
    folder = temporary_stack_folder()
    settings = {key: value for name in STACK_SCENARIOS for key, value in SCENARIOS[name].settings.items()}
    made = StackCopy(
        folder,
        first_free_port(5),
        lambda _: None,
        variables={**FAST_RETRY_SETTINGS, **settings, **SHORT_TIMEOUTS},
        customize=_customize_project,
    )
    try:
        made.up()
        yield made
    finally:
        made.remove()
        shutil.rmtree(folder, ignore_errors=True)


def _tier(name: str) -> list[pytest.MarkDecorator]:
    if name in LONG_SCENARIOS:
        return [pytest.mark.long]
    return [] if name in DEFAULT_SCENARIOS else [pytest.mark.extended]


@pytest.mark.parametrize("name", [pytest.param(name, marks=_tier(name)) for name in STACK_SCENARIOS])
def test_nothing_is_lost(name: str, stack_copy: StackCopy) -> None:
    tools = Tools(Paths.from_environment().home / "bench", print)
    with StackEnvironment(name, stack_copy, print, tools, short=True) as env:
        env.mail.set_faults()
        verdict = run_scenario(SCENARIOS[name], env)
    assert verdict.problems == ()
    assert verdict.lost == 0
    assert verdict.accepted >= 50
