"""Tiers of tests, hypothesis profiles, and the distribution of tests over processes.

Without `-m`, the default tier runs, as in CI. `-m extended` runs what is too slow for every change, before a release,
and the randomized tests with more examples; `-m long` runs the longest.
"""

from __future__ import annotations

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

BENCH = "tests/acceptance/test_bench.py"
"""It starts its own stack."""
GROUPS = (BENCH, "tests/acceptance/", "tests/dags/", "tests/integration/containers/")
"""Folders whose tests share fixtures, first match. Every other file is its own group."""
LONGEST = ("tests/integration/chaos/", "tests/integration/stack/", BENCH)

hypothesis.settings.register_profile("default", max_examples=40, deadline=None)
hypothesis.settings.register_profile("extended", max_examples=1000, deadline=None)


class Grouped(LoadScopeScheduling):  # type: ignore[misc]
    """Assigns each group to one process."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return next((folder for folder in GROUPS if path.startswith(folder)), path)


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("extended" if _is_extended(config) else "default")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the longest tests first; select randomized tests in the extended tier, too."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    if _is_extended(config):
        for item in items:
            is_long = item.get_closest_marker("long") is not None
            if isinstance(item, pytest.Function) and hypothesis.is_hypothesis_test(item.obj) and not is_long:
                item.add_marker("extended")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Grouped:
    return Grouped(config, log)


def _is_extended(config: pytest.Config) -> bool:
    expression = str(config.getoption("markexpr"))
    return "extended" in expression and "not extended" not in expression
