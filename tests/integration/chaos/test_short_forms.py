"""Every fault in its short form, one after the other on one stack: nothing is lost, the books balance."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backline.stack.paths import Paths
from chaos.arena import QUICK_RETRIES
from chaos.harness import carry_out
from chaos.scenarios import SCENARIOS
from chaos.stack_arena import StackArena
from rig.stack_copy import StackCopy
from rig.tools import Tools
from tests.acceptance.running import free_ports

pytestmark = pytest.mark.stack

ON_THE_STACK = [name for name, scenario in SCENARIOS.items() if not scenario.on_celery]
LONG = {"stack-down", "poison", "triggerer-killed", "api-server-killed", "smtp-down", "clock-off"}
# So that a death is noticed within seconds; a scenario's own settings stand over these.
IMPATIENT = {"BACKLINE__OUTBOX__HEARTBEAT_TIMEOUT_SECONDS": "3", "BACKLINE__DOORBELL__SILENCE_SECONDS": "2"}


def _fork(project: Path) -> None:
    for scenario in SCENARIOS.values():
        scenario.fork(project)


@pytest.fixture(scope="module")
def copy() -> Iterator[StackCopy]:
    folder = Path(tempfile.mkdtemp(prefix="bl-", dir="/tmp"))
    folder.chmod(0o711)
    settings = {key: value for name in ON_THE_STACK for key, value in SCENARIOS[name].variables.items()}
    made = StackCopy(
        folder, free_ports(5), lambda _: None, variables={**QUICK_RETRIES, **settings, **IMPATIENT}, fork=_fork
    )
    try:
        made.up()
        yield made
    finally:
        made.remove()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in ON_THE_STACK]
)
def test_nothing_is_lost(name: str, copy: StackCopy) -> None:
    tools = Tools(Paths.from_environment().home / "bench", print)
    with StackArena(name, copy, print, tools, short=True) as arena:
        arena.mail.set_faults()
        verdict = carry_out(SCENARIOS[name], arena)
    assert verdict.wrong == ()
    assert verdict.lost == 0
    assert verdict.accepted >= 50
