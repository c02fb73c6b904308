"""What all DAGs of Backline share, so that no DAG file repeats it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

OWNER = "backline"
START_DATE = datetime(2026, 1, 1, tzinfo=UTC)
EXECUTION_TIMEOUT = timedelta(minutes=9)
"""The soft limit of a task, unless its DAG says otherwise."""


def dag_arguments(*tags: str, **overrides: Any) -> dict[str, Any]:
    """Keyword arguments for `DAG(...)`; `overrides` win."""
    return {
        "start_date": START_DATE,
        "catchup": False,
        "tags": {"backline", *tags},
        "render_template_as_native_obj": False,
        **overrides,
    }


def task_arguments(*, pool: str, queue: str, priority: int, **overrides: Any) -> dict[str, Any]:
    """Keyword arguments for an operator; `overrides` win. Priorities are absolute: a pool's queue is in their order."""
    return {
        "owner": OWNER,
        "pool": pool,
        "queue": queue,
        "priority_weight": priority,
        "weight_rule": "absolute",
        "execution_timeout": EXECUTION_TIMEOUT,
        **overrides,
    }


def lane_pool(lane: str) -> str:
    """The Airflow pool of a lane."""
    return lane.replace(".", "_")


def direct_pool(channel: str) -> str:
    """The Airflow pool of a channel's `send_*` runs."""
    return f"{channel}_direct"
