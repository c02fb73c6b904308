"""Which tests may run side by side when there are several processes: a group of tests runs in one of them."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

BENCH = "tests/acceptance/test_bench.py"
"""It has a stack of its own, which takes as long as half of the others of its folder."""
COMMERCE = "tests/acceptance/commerce/"
GROUPS = (BENCH, COMMERCE, "tests/acceptance/", "tests/dags/", "tests/integration/containers/")
"""Folders whose tests share what they prepare, first match. Any other file is a group of its own."""
LONGEST = ("tests/integration/chaos/", "tests/integration/stack/")


class Grouped(LoadScopeScheduling):
    """Gives each group to one process, whole."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return next((folder for folder in GROUPS if path.startswith(folder)), path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs longest begins first."""
    items.sort(key=lambda item: not item.nodeid.startswith((*LONGEST, BENCH)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Grouped:
    return Grouped(config, log)
