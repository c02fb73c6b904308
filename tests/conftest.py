"""Which tests may run side by side: the whole suite runs in two processes, a group of tests in one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
GROUPS = {
    "acceptance/test_celery.py": "containers",
    "integration/containers": "containers",
    "acceptance": "stack",
    "integration/airflow": "stack",
    "integration/bench": "stack",
    "integration/stack": "stack",
    "dags": "dags",
}
"""What shares a running stack, a folder or ports; the first that fits. A file that is in none is a group of its own."""


def group(path: Path) -> str:
    """The group of a test's file."""
    place = path.relative_to(TESTS).as_posix()
    for prefix, name in GROUPS.items():
        if place == prefix or place.startswith(f"{prefix}/"):
            return name
    return place


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item.path)))
