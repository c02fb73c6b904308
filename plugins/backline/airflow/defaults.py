"""What all DAGs share: arguments of DAGs and tasks, and the pools. `python -m backline.airflow.defaults` creates the pools."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from backline.settings import Settings, settings

OWNER = "backline"
START_DATE = datetime(2026, 1, 1, tzinfo=UTC)
EXECUTION_TIMEOUT = timedelta(minutes=9)
"""The soft limit of a task, unless its DAG sets another."""


def dag_arguments(*tags: str, **overrides: Any) -> dict[str, Any]:
    """Keyword arguments for `DAG(...)`; `overrides` replace the defaults."""
    return {
        "start_date": START_DATE, "catchup": False, "tags": {"backline", *tags}, "render_template_as_native_obj": False,
        **overrides,
    }  # fmt: skip


def task_arguments(*, pool: str, queue: str, priority: int, **overrides: Any) -> dict[str, Any]:
    """Keyword arguments for an operator; `overrides` replace the defaults. Priorities are absolute within a pool."""
    return {
        "owner": OWNER, "pool": pool, "queue": queue, "priority_weight": priority, "weight_rule": "absolute",
        "execution_timeout": EXECUTION_TIMEOUT, **overrides,
    }  # fmt: skip


def lane_pool(lane: str) -> str:
    """The Airflow pool of a lane; pool names have no dots."""
    return lane.replace(".", "_")


def direct_pool(channel: str) -> str:
    """The Airflow pool of a channel's `send_*` runs."""
    return f"{channel}_direct"


def configured_pools(config: Settings) -> dict[str, int]:
    """Slots by pool. A lane has one more than dispatchers, so that a successor starts before its predecessor has ended."""
    lanes = {lane_pool(name): lane.max_dispatchers + 1 for name, lane in config.lanes.items()}
    return {**lanes, **config.direct_pools, **config.job_pools}


def ensure_pools(config: Settings) -> list[str]:
    """Create missing pools in Airflow's database and set the slots of the others; returns the names that changed."""
    from airflow.models.pool import Pool

    before = {pool.pool: pool.slots for pool in Pool.get_pools()}
    changed = {name: slots for name, slots in configured_pools(config).items() if before.get(name) != slots}
    for name, slots in changed.items():
        Pool.create_or_update_pool(name, slots, "From include/config/backline.toml", include_deferred=False)
    return list(changed)


if __name__ == "__main__":
    print("pools:", ", ".join(ensure_pools(settings())) or "unchanged")  # noqa: T201
