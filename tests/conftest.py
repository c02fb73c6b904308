"""Distributes tests over processes: the tests of a group run in the same one."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

BENCH = "tests/acceptance/test_bench.py"
"""It starts its own stack, and takes as long as half of the other tests of its folder."""
COMMERCE = "tests/acceptance/commerce/"
GROUPS = (BENCH, COMMERCE, "tests/acceptance/", "tests/dags/", "tests/integration/containers/")
"""Folders whose tests share fixtures, first match. Every other file is its own group."""
LONGEST = ("tests/integration/chaos/", "tests/integration/stack/")


class Grouped(LoadScopeScheduling):
    """Assigns each group to one process."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return next((folder for folder in GROUPS if path.startswith(folder)), path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first."""
    items.sort(key=lambda item: not item.nodeid.startswith((*LONGEST, BENCH)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Grouped:
    return Grouped(config, log)
