"""`./backline check`: its steps by name, as the pre-commit hook and CI use them."""

from __future__ import annotations

import pytest
import yaml

from backline.errors import InvalidInput
from backline.settings import ROOT
from testkit import commands


def test_an_unknown_step_is_named_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="STEP: there is no check 'nope'; use one of: format, lint, types, "):
        commands.check(["lint", "nope"])


def test_the_help_lists_every_step() -> None:
    assert ", ".join(commands.CHECKS) in str(commands.check.__doc__)


def test_the_pre_commit_hook_runs_steps_that_exist() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"].split() for repository in config["repos"] for hook in repository["hooks"]]
    assert [entry[:2] for entry in entries] == [["./backline", "check"]]
    assert set(entries[0][2:]) <= set(commands.CHECKS)
