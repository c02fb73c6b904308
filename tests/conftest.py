"""Which tests may run side by side when there are several processes: a group of tests runs in one of them."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

LONGEST = (
    "tests/acceptance/test_bench.py",
    "tests/acceptance/test_runs_on_a_laptop.py",
    "tests/acceptance/",
    "tests/integration/chaos/",
    "tests/integration/stack/test_lifecycle.py",
)
"""What mostly waits for a stack of its own begins first: the others are computed meanwhile."""
GROUPS = (*LONGEST, "tests/dags/", "tests/integration/containers/")
"""Tests that share what they prepare, by the first beginning that fits. Any other file is a group of its own."""


class Grouped(LoadScopeScheduling):
    """Gives each group to one process, whole."""

    def _split_scope(self, nodeid: str) -> str:
        return next((each for each in GROUPS if nodeid.startswith(each)), nodeid.partition("::")[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs longest begins first."""
    last = len(LONGEST)
    items.sort(
        key=lambda item: next((place for place, each in enumerate(LONGEST) if item.nodeid.startswith(each)), last)
    )


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Grouped:
    return Grouped(config, log)
