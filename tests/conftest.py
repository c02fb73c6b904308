"""Which tests may run side by side: the whole suite runs in two processes, a group of tests in one of them."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

GROUPS = {
    "tests/acceptance/test_celery.py": "containers",
    "tests/integration/containers/": "containers",
    "tests/acceptance/": "stack",
    "tests/integration/airflow/": "stack",
    "tests/integration/bench/": "stack",
    "tests/integration/stack/": "stack",
    "tests/dags/": "dags",
}
"""What shares a running stack, a folder or ports; the first that fits. A file that is in none is a group of its own."""


class Grouped(LoadScopeScheduling):
    """Gives each group to one process, whole."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return next((name for prefix, name in GROUPS.items() if path.startswith(prefix)), path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Grouped:
    return Grouped(config, log)
